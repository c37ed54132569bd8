"""Tuning: alternatives of the kernels an op launches, wrong ones refused, the shipped table left as it was."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tune():
    from benchmarks.kernels import tune

    return tune


@pytest.fixture
def module() -> SimpleNamespace:
    """Tiles are (seconds an op takes, what it adds to its result)."""
    return SimpleNamespace(
        SHIPPED={"first": (0.02, 0.0), "second": (0.0, 0.0), "other": (0.0, 0.0)},
        TRIALS={"first": ((0.0, 0.0), (0.0, 1.0), (math.nan, 0.0)), "other": ((0.0, 0.0),)},
    )


def case_of(tune, module) -> object:
    def op() -> list[torch.Tensor]:
        seconds, added = (sum(column) for column in zip(module.SHIPPED["first"], module.SHIPPED["second"], strict=True))
        if math.isnan(seconds):
            raise RuntimeError("out of resources: shared memory\nmore")
        time.sleep(seconds)
        return [torch.ones(3) + added]

    return tune.Case("op", "shape", lambda: {"ours": op, "peer": list}, 1, 1, 1)


def test_what_an_op_launches_is_tried_and_the_table_kept(tune, module):
    kept = module.SHIPPED
    fast, wrong, failing = tune.tune(module, case_of(tune, module), 3)
    assert module.SHIPPED is kept
    assert fast.key == wrong.key == failing.key == "first"
    assert (fast.config, fast.failed) == ("(0.0, 0.0)", "")
    assert math.isfinite(fast.ms)
    assert math.isfinite(fast.shipped_ms)
    assert "relative error" in wrong.failed
    assert math.isnan(wrong.ms)
    assert failing.failed == "out of resources: shared memory"


def test_the_table_is_kept_when_an_op_breaks(tune, module):
    kept = module.SHIPPED
    with pytest.raises(RuntimeError, match="broken"), tune.shipping(module, {}):
        raise RuntimeError("broken")
    assert module.SHIPPED is kept


def test_it_is_saved(tune, module, tmp_path):
    tune.save(list(tune.tune(module, case_of(tune, module), 1)), tmp_path)
    (path,) = tmp_path.glob("tune_*.csv")
    with path.open() as file:
        assert [row["config"] for row in csv.DictReader(file)] == ["(0.0, 0.0)", "(0.0, 1.0)", "(nan, 0.0)"]


def test_every_table_has_a_case(tune):
    for op in tune.TABLES.values():
        assert list(tune.largest(op, "cuda"))


def test_without_a_gpu_it_says_so(tune):
    with pytest.raises(SystemExit, match="no GPU"):
        tune.main([])


def test_every_kernel_looks_its_tile_up_where_the_tuner_puts_it():
    code = """
import importlib
from benchmarks.kernels import tune
for name, op in tune.TABLES.items():
    module = importlib.import_module(f"silc_kernels.{name}")
    for case in tune.largest(op, "tiny"):
        seen = tune.Seen(module.SHIPPED)
        with tune.shipping(module, seen):
            next(iter(case.providers().values()))()
        print(name, *(key[0] for key in seen.keys_seen))
"""
    extra = {"TRITON_INTERPRET": "1", "SILC_KERNELS_BACKEND": "triton", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | extra, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in (
        "distill.triton_logits_launch statistics gradient",
        "distill.triton_head_launch bounded teacher attend teacher bounded student attend student",
        " weight_gradient\n",
        "contrastive.triton_launch log_sum_exp softmax_gradient",
        "contrastive.triton_launch sigmoid_gradient",
        "patch_embedding.triton_launch project narrow gradient narrow",
        "photometry.triton_launch greys points blur_across blur_down",
        "crops.triton_launch across down",
    ):
        assert line in done.stdout
