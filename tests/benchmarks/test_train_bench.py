"""The training benchmark: it runs, it writes every row, and it times nothing that is wrong."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from benchmarks.common import stopwatch
from benchmarks.train import bench
from benchmarks.train.baseline import Glued
from silc import config_io

ROOT = Path(__file__).resolve().parents[2]
TINY = """
model:
  vision: {image_size: 32, patch_size: 8, width: 32, depth: 1, heads: 2}
  text: {context_length: 8, width: 32, depth: 1, heads: 2}
  head: {prototypes: 64, hidden: 32, bottleneck: 16}
views: {n_global: 2, n_local: 3, global_size: 32, local_size: 16}
data: {workers: 0, shuffle_block: 16}
optim: {schedule: constant, warmup_steps: 0, cooldown_steps: 0}
train: {steps: 100, global_batch: 8, tensorboard: false}
"""


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """A preset of a model and shards that take no time."""
    rng = np.random.default_rng(0)
    with wds.TarWriter(str(tmp_path / "pairs.tar")) as writer:
        for number in range(24):
            encoded = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(encoded, "png")
            writer.write({"__key__": f"{number:04}", "png": encoded.getvalue(), "txt": f"thing {number}"})
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("data: {", f"data: {{shards: ['{tmp_path / 'pairs.tar'}'], "))
    return path


def test_it_writes_every_row(preset, tmp_path):
    command = ["benchmarks/train_bench.py", "--preset", str(preset), "--steps", "2", "--data-steps", "1", "--save"]
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path / "results")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "correct: both losses agree" in done.stdout
    with (tmp_path / "results" / "train_tiny_cpu.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rates = {(row["provider"], row["mode"]): row for row in rows if not row["mode"].startswith("part: ")}
    assert set(rates) == {(p, "step") for p in ("silc", "glued", "clip")} | {(p, "data") for p in ("silc", "glued")}
    for (provider, mode), row in rates.items():
        assert float(row["samples_per_s"]) > 0
        assert float(row["ms_p20"]) <= float(row["ms"]) <= float(row["ms_p80"])
        ours = float(rates["silc", mode]["samples_per_s"])
        assert float(row["ratio"]) == pytest.approx(ours / float(row["samples_per_s"]), rel=2e-3)
        assert (float(row["peak_mib"]) > 0) if mode == "step" else (row["peak_mib"] == ""), provider
    parts = {"data", "patch embedding", "student", "contrastive", "backward", "optimiser", "other"}
    silc_parts = parts | {"teacher", "distillation", "EMA"}
    for provider, expected in (("silc", silc_parts), ("glued", silc_parts), ("clip", parts)):
        mine = {row["mode"]: float(row["ms"]) for row in rows if row["provider"] == provider}
        timed = {mode.removeprefix("part: "): ms for mode, ms in mine.items() if mode.startswith("part: ")}
        assert set(timed) == expected
        assert min(timed.values()) > 0
    for column in ("device", "versions", "commit", "date"):
        assert all(row[column] for row in rows)


def test_the_gate_ends_it_where_a_loss_is_wrong(preset, tmp_path):
    config = config_io.load_config(preset, presets=preset.parent)
    # A teacher that is only a little less sharp in one of the two.
    other = replace(config, objective=replace(config.objective, teacher_temp=1.01 * config.objective.teacher_temp))
    workers = bench.open_workers({"silc": config, "glued": other}, config.data.shards, tmp_path / "run")
    try:
        with pytest.raises(ValueError, match="nothing is timed"):
            bench.check(workers)
    finally:
        for worker in workers.values():
            worker.close()


def test_the_gates_bound():
    assert bench.gate([(2.0, 5.0), (2.0, 5.0)], [(2.0001, 5.0), (2.001, 5.0)]).startswith("correct")
    for wrong in ([(2.0, 5.001), (2.0, 5.0)], [(2.0, 5.0), (2.0, 5.01)], [(float("nan"), 5.0), (2.0, 5.0)]):
        with pytest.raises(ValueError, match="relative difference"):
            bench.gate([(2.0, 5.0), (2.0, 5.0)], wrong)


def test_what_the_glued_baseline_cannot_do_is_refused(preset, tmp_path):
    config = config_io.load_config(preset, ["objective.global_to_global=true"], presets=preset.parent)
    with pytest.raises(ValueError, match=r"objective\.global_to_global=True"):
        Glued(config, config.data.shards, tmp_path)


def test_parts_inside_parts_are_counted_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])

    class Work:
        def outer(self) -> str:
            now[0] += 1
            inner = self.inner()
            now[0] += 2
            return inner

        def inner(self) -> str:
            now[0] += 10
            return "done"

    work, watch = Work(), stopwatch.Stopwatch(lambda: None)
    spans = [stopwatch.Span(work, "outer", "out"), stopwatch.Span(work, "inner", "in")]
    with watch.watching(spans), watch.part("other"):
        assert work.outer() == "done"
        now[0] += 0.5
    assert watch.seconds == {"out": 3, "in": 10, "other": 0.5}
    work.outer()
    assert watch.seconds["in"] == 10
