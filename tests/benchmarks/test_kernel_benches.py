"""The kernel benchmarks run, save what they measured, and time nothing that is wrong."""

from __future__ import annotations

import csv
import importlib
import importlib.machinery
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *(script.split() if script.startswith("-m") else [str(ROOT / "benchmarks" / script)]), *args],
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
        (
            "views_bench.py",
            {"photometric", "crop_resize", "views from host memory"},
            {"torchvision v2, uint8, a view at a time", "torchvision v2, a view at a time", "silc_kernels, crops sent"},
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


@pytest.fixture
def contrastive():
    """The module contrastive_cases, as the benchmarks import it."""
    return importlib.import_module("benchmarks.kernels.contrastive_cases")


def stub_of_inf_cl(q, k, labels=None, scale=None, head_dim=256):
    """As the package documents it: a loss for each row, positives on the diagonal, heads that divide the width."""
    assert scale is None
    assert q.shape[1] % head_dim == 0
    assert head_dim in (16, 32, 64, 128, 256)
    logits = q.float() @ k.float().T
    return logits.logsumexp(1) - logits[:, : len(q)].diagonal()


@pytest.mark.parametrize(("ranks", "width"), [(1, 48), (3, 64)])
def test_inf_cl_is_wired_as_its_package_wants_it(contrastive, monkeypatch, ranks, width):
    import torch

    from benchmarks.common.measure import gate
    from benchmarks.kernels.simulated_ranks import among, clip_loss

    package = types.ModuleType("inf_cl")
    package.__spec__ = importlib.machinery.ModuleSpec("inf_cl", None)
    package.cal_flash_loss = stub_of_inf_cl
    monkeypatch.setitem(sys.modules, "inf_cl", package)
    image, text = contrastive.unit(8, width, dtype=torch.float32), contrastive.unit(8, width, dtype=torch.float32)
    leaves = [x.requires_grad_() for x in (image, text, torch.tensor([14.0]))]
    monkeypatch.setattr(contrastive, "device", lambda: torch.device("cuda"))
    ((name, run_it),) = contrastive.inf_cl(*leaves, ranks).items()
    assert name == "Inf-CL"
    with among(ranks):
        expected = contrastive.solve(clip_loss(ranks)(*leaves), leaves)
    gate(name, run_it(), expected, 1e-5)


@pytest.mark.parametrize(
    ("kind", "width", "why"),
    [("cpu", 64, "its kernels need a CUDA device"), ("cuda", 64, "package inf_cl is not installed")],
)
def test_a_peer_that_is_left_out_is_named_with_its_reason(contrastive, monkeypatch, capsys, kind, width, why):
    import torch

    monkeypatch.setattr(contrastive, "device", lambda: torch.device(kind))
    monkeypatch.setattr(contrastive, "find_spec", lambda name: None)
    assert contrastive.inf_cl(torch.zeros(2, width), torch.zeros(2, width), torch.ones(1), 1) == {}
    assert capsys.readouterr().out == f"  left out: Inf-CL ({why})\n"


@pytest.mark.parametrize(
    ("script", "ops", "left_out"),
    [
        ("loss_bench.py", 4, ["lightly", "open_clip"]),
        ("patch_embed_bench.py", 3, ["timm"]),
        ("views_bench.py", 2, ["torchvision", "views from host memory (the trainer needs pydantic, torchvision)"]),
    ],
)
def test_a_benchmark_needs_no_peer(script, ops, left_out, tmp_path):
    hidden = "lightly", "open_clip", "timm", "torchvision", "pydantic", "silc"
    site = f"""
import importlib.abc, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {hidden}:
            raise ModuleNotFoundError(name)
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.partition(".")[0] in {hidden} else found(name)
sys.meta_path.insert(0, Hidden())
"""
    (tmp_path / "sitecustomize.py").write_text(site)
    result = run(script, "--size", "tiny", "--save", str(tmp_path), PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    for name in left_out:
        assert f"left out: {name}" in result.stdout
    (table,) = tmp_path.glob("*.csv")
    rows = list(csv.DictReader(table.open()))
    assert len({row["op"] for row in rows}) == ops
    assert not any(peer in row["provider"] for row in rows for peer in hidden[:4])
    if script == "loss_bench.py":  # gated and timed against something all the same
        assert {"eager einsum", "eager torch"} <= {row["provider"] for row in rows}


def test_what_was_saved_is_taken_up(tmp_path, capsys):
    import torch

    from benchmarks.kernels.cases import Case, options, run

    calls = []

    def case(op):
        return Case(op, "shape", lambda: {"ours": lambda: calls.append(op) or [torch.ones(1)]}, 1, 1, 1)

    saved = "--save", str(tmp_path)
    run("bench", [case("first")], options("", saved))
    del calls[:]
    records = run("bench", [case("first"), case("second")], options("", [*saved, "--resume"]))
    assert set(calls) == {"second"}
    rows = list(csv.DictReader((tmp_path / "bench_cpu.csv").open()))
    assert [row["op"] for row in rows] == ["first", "second"] == [record["op"] for record in records]
    # Of a GPU alone, so empty here.
    assert {row[name] for row in rows for name in ("enqueue_ms", "host_ms", "graph_ms")} == {""}
    with pytest.raises(SystemExit):
        options("", ["--resume"])
    assert "give both" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_the_loss_in_plain_torch_is_open_clips(contrastive, kind, ranks):
    import torch

    from benchmarks.common.measure import gate
    from benchmarks.kernels import simulated_ranks as simulated

    image, text = (contrastive.unit(8, 16, dtype=torch.float32).requires_grad_() for _ in range(2))
    scale, bias = (torch.tensor([value], requires_grad=True) for value in (14.0, -10.0))
    inputs = [image, text, scale, *([bias] if kind == "sigmoid" else [])]
    peer, plain = (
        (simulated.clip_loss, simulated.eager_softmax)
        if kind == "softmax"
        else (simulated.siglip_loss, simulated.eager_sigmoid)
    )
    with simulated.among(ranks):
        expected = contrastive.solve(peer(ranks)(*inputs), inputs)
    gate("plain", contrastive.solve(plain(ranks)(*inputs), inputs), expected, 1e-5)


def test_a_wrong_result_is_not_timed():
    import torch

    from benchmarks.kernels.cases import Case, check

    right, wrong = [torch.ones(3)], [torch.ones(3) * 1.1]
    case = Case("op", "shape", dict, 1, 1, 1, bound=1e-3)
    check(case, {"ours": lambda: right, "peer": lambda: right, "ceiling": list})
    with pytest.raises(ValueError, match="nothing is timed"):
        check(case, {"ours": lambda: right, "peer": lambda: wrong})


def test_the_sanitizer_script_touches_every_kernel():
    result = run("-m benchmarks.kernels.sanitize")
    assert result.returncode == 0, result.stderr
    assert "every kernel ran" in result.stdout


def test_the_plot_keeps_ranks_of_many_apart():
    from benchmarks.kernels.plots import batch, line

    alone = {"provider": "ours", "shape": "B=32768 d=768"}
    among = {"provider": "ours", "shape": "B=32768 d=768 n=4096, 7 ranks simulated"}
    assert [line(row) for row in (alone, among)] == ["ours", "ours, n=4096 a rank"]
    assert [batch(row["shape"]) for row in (alone, among)] == [32768, 32768]


def test_the_plot_needs_rows(tmp_path):
    result = run("-m benchmarks.kernels.plots", str(tmp_path / "missing.csv"))
    assert result.returncode != 0
    table = tmp_path / "loss.csv"
    table.write_text(
        "op,shape,provider,ms,peak_mib,device,date\n"
        "contrastive_loss softmax,B=8 d=4,silc_kernels,1.0,2.0,CPU,2026-01-01\n"
        "contrastive_loss softmax,B=16 d=4,silc_kernels,2.0,3.0,CPU,2026-01-01\n"
    )
    assert run("-m benchmarks.kernels.plots", str(table)).returncode == 0
    assert (tmp_path / "loss.png").stat().st_size > 1000
