"""The smoke test finds what is wrong, goes on behind a crash, and writes each check before the next begins."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.kernels import smoke
from benchmarks.kernels.smoke import Result
from benchmarks.kernels.smoke_checks import Check, checks

ROOT = Path(__file__).resolve().parents[2]


def check(name: str, added: float = 0.0, *, unsteady: bool = False, breaks: bool = False) -> Check:
    calls = []

    def solve(how: str) -> list[torch.Tensor]:
        if breaks:
            raise RuntimeError("an illegal memory access\nmore")
        calls.append(how)
        wrong = added if how == "triton" else 0.0
        return [torch.ones(2), torch.ones(3) + wrong + (1e-7 * len(calls) if unsteady and how == "triton" else 0)]

    return Check(name, torch.float32, solve, 1e-5)


def test_wrong_results_unsteady_ones_and_failures_are_told_apart(monkeypatch, tmp_path):
    named = [check("right"), check("wrong", 1e-3), check("unsteady", unsteady=True), check("broken", breaks=True)]
    named.append(check("infinite", float("nan")))
    monkeypatch.setattr(smoke, "checks", lambda: iter(named))
    path, done = tmp_path / "smoke.csv", {}
    smoke.run(path, done)
    assert {name: result.outcome for name, result in done.items()} == {
        "right": "passed",
        "wrong": "wrong",
        "unsteady": "wrong",
        "broken": "failed",
        "infinite": "wrong",
    }
    assert done["wrong"].why == "result 1"
    assert "two runs differ" in done["unsteady"].why
    assert done["broken"].why == "RuntimeError: an illegal memory access"
    assert list(smoke.read(path)) == [each.name for each in named]


def test_what_ran_when_the_process_ended_has_crashed_and_is_not_run_again(monkeypatch, tmp_path):
    path = tmp_path / "smoke.csv"
    smoke.write({"a": Result("a", "passed", seconds=1.0), "b": Result("b")}, path)
    done = smoke.read(path)
    assert (done["a"].outcome, done["b"].outcome) == ("passed", "crashed")
    monkeypatch.setattr(smoke, "checks", lambda: iter([check("a", breaks=True), check("b", breaks=True), check("c")]))
    smoke.run(path, done)
    assert [result.outcome for result in smoke.read(path).values()] == ["passed", "crashed", "passed"]


def test_what_was_not_right_is_tried_again_when_all_had_been_tried(tmp_path):
    path, names = tmp_path / "smoke.csv", ["a", "b", "c"]
    held = {"a": Result("a", "passed", seconds=1.0), "b": Result("b", "wrong")}
    smoke.write(held, path)
    smoke.begin(path, names, resume=True)
    assert list(smoke.read(path)) == ["a", "b"]  # it was stopped: first what is left
    smoke.write(held | {"c": Result("c", "crashed")}, path)
    smoke.begin(path, names, resume=True)
    assert list(smoke.read(path)) == ["a"]
    smoke.begin(path, names, resume=False)
    assert not path.exists()


def test_a_table_that_cannot_be_read_is_begun_afresh_and_said(tmp_path, capsys):
    path = tmp_path / "smoke.csv"
    smoke.write({"a": Result("a", "passed", seconds=1.0)}, path)
    path.write_text(path.read_text()[:-12])
    assert smoke.read(path) == {}
    assert "cannot be read" in capsys.readouterr().out
    assert [each.name for each in tmp_path.iterdir()] == ["smoke.csv"]


def test_a_device_that_answers_no_more_ends_the_process(monkeypatch, tmp_path):
    monkeypatch.setattr(smoke, "checks", lambda: iter([check("broken", breaks=True), check("next")]))
    monkeypatch.setattr(smoke, "broken", lambda: True)
    done = {}
    with pytest.raises(SystemExit, match="unusable"):
        smoke.run(tmp_path / "smoke.csv", done)
    assert list(done) == ["broken"]


def test_every_op_and_dtype_is_right_under_the_interpreter(tmp_path):
    command = [sys.executable, "-m", "benchmarks.kernels.smoke", "--save", str(tmp_path)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = list(csv.DictReader((tmp_path / "smoke_cpu.csv").open()))
    assert {row["outcome"] for row in rows} == {"passed"}
    ops = {"patch_embed", "distill_head_loss", "contrastive_loss", "distill_loss", "photometric", "crop_resize"}
    assert {row["check"].split()[0] for row in rows} == ops


def test_on_a_gpu_the_product_into_float32_comes_first_and_each_op_in_every_dtype():
    names = [each.name for each in checks(tiny=False)]
    assert names[:2] == ["addmm of bfloat16 into float32", "addmm of float16 into float32"]
    for op, dtypes in (
        ("patch_embed", 3),
        ("distill_head_loss", 2),
        ("contrastive_loss sigmoid", 3),
        ("distill_loss", 3),
    ):
        assert len({name.split()[-1] for name in names if name.startswith(op)}) == dtypes
    assert len(set(names)) == len(names)


def test_what_was_not_measured_is_a_dash():
    assert "error - " in smoke.line(Result("a", "failed", why="RuntimeError"))
    assert "error 1.0e-03 (plain torch 2.0e-03" in smoke.line(Result("a", "wrong", 1e-3, 2e-3, 4e-3))


def test_an_interpreter_that_does_not_work_is_said_before_any_check(monkeypatch, tmp_path, capsys):
    from tests.kernels.device import interpreter

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(interpreter, "trouble", lambda: "it does not work with NumPy 2.4")
    with pytest.raises(SystemExit):
        smoke.main(["--save", str(tmp_path)])
    assert "it does not work with NumPy 2.4" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
