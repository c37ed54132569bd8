"""The kernel benchmarks run, save what they measured, and time nothing that is wrong."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("script", "ops", "peers"),
    [
        (
            "loss_bench.py",
            {"distill_loss", "distill_head_loss", "contrastive_loss softmax", "contrastive_loss sigmoid"},
            {"eager einsum", "lightly DINOLoss", "open_clip ClipLoss", "open_clip SigLipLoss"},
        ),
        (
            "patch_embed_bench.py",
            {"patch_embed", "patch_embed forward", "patch_embed backward"},
            {"eager: normalise, conv2d, add, cat", "timm PatchEmbed, add, cat"},
        ),
    ],
)
def test_every_op_is_gated_timed_and_saved(script, ops, peers, tmp_path):
    result = run(script, "--size", "tiny", "--save", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("correct: ") >= len(peers), result.stdout
    assert "not a GPU" in result.stdout
    (table,) = tmp_path.glob("*.csv")
    rows = list(csv.DictReader(table.open()))
    assert {row["op"] for row in rows} == ops
    assert peers <= {row["provider"] for row in rows}
    for row in rows:
        assert float(row["ms"]) > 0
        assert float(row["roofline_percent"]) > 0
        assert row["device"].startswith("CPU")
    assert all(float(row["ratio"]) == 1 for row in rows if row["provider"] == "silc_kernels")


def test_a_wrong_result_is_not_timed(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import torch
    from cases import Case, check

    right, wrong = [torch.ones(3)], [torch.ones(3) * 1.1]
    case = Case("op", "shape", dict, 1, 1, 1, bound=1e-3)
    check(case, {"ours": lambda: right, "peer": lambda: right, "ceiling": list})
    with pytest.raises(ValueError, match="nothing is timed"):
        check(case, {"ours": lambda: right, "peer": lambda: wrong})


def test_the_gpu_script_runs_every_job_and_says_what_it_left_out(tmp_path):
    result = run("gpu.py", "--size", "tiny", "--only", "loss,memcheck", "--out", str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    page = (tmp_path / "cpu.md").read_text()
    assert "| loss | passed |" in page
    assert "needs compute-sanitizer" in page
    assert (tmp_path / "loss_cpu.csv").exists()
    assert "contrastive_loss" in (tmp_path / "logs" / "loss.log").read_text()


def test_the_gpu_script_refuses_a_machine_without_one():
    result = run("gpu.py")
    assert result.returncode == 2
    assert "no GPU is visible" in result.stderr


def test_the_sanitizer_script_touches_every_kernel():
    result = run("sanitize.py")
    assert result.returncode == 0, result.stderr
    assert "every kernel ran" in result.stdout


def test_the_plot_needs_rows(tmp_path):
    result = run("plots.py", str(tmp_path / "missing.csv"))
    assert result.returncode != 0
    table = tmp_path / "loss.csv"
    table.write_text(
        "op,shape,provider,ms,peak_mib,device,date\n"
        "contrastive_loss softmax,B=8 d=4,silc_kernels,1.0,2.0,CPU,2026-01-01\n"
        "contrastive_loss softmax,B=16 d=4,silc_kernels,2.0,3.0,CPU,2026-01-01\n"
    )
    assert run("plots.py", str(table)).returncode == 0
    assert (tmp_path / "loss.png").stat().st_size > 1000
