"""The check under the newest versions: what counts as equal, and the second lock beside the first."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.soak import newest

ROOT = Path(__file__).resolve().parents[1]
CHANGED = {"torch", "torchvision", "triton", "numpy"}


def step(number: int, loss: float) -> dict[str, float]:
    return {"step": number, "loss": loss, "loss_contrastive": 2.0, "loss_distill": 1.0}


def test_losses_are_equal_within_a_bound_and_step_by_step():
    assert newest.furthest([step(2, 3.0)], [step(2, 3.0)]) == 0
    assert newest.furthest([step(2, 3.3), step(3, 3.0)], [step(2, 3.0), step(3, 3.0)]) == pytest.approx(0.1)
    for ours, theirs in (([], []), ([step(2, 3.0)], [step(3, 3.0)]), ([step(2, 3.0)], [step(2, 3.0), step(3, 3.0)])):
        assert newest.furthest(ours, theirs) == float("inf")


def test_a_training_that_fails_is_told_with_what_it_said(tmp_path, monkeypatch):
    monkeypatch.setattr(newest, "run", lambda *_: (False, "no such preset", 1.0))
    with pytest.raises(RuntimeError, match="no such preset"):
        newest.losses("python", tmp_path)


def pins(name: str) -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    found = [Requirement(line) for line in lines if line]
    assert all(str(requirement.specifier).startswith("==") for requirement in found)
    return {canonicalize_name(requirement.name): str(requirement.specifier) for requirement in found}


def test_the_second_lock_is_the_first_with_newer_torch_triton_and_numpy():
    lock, newer = pins("requirements.txt"), pins("requirements-newest.txt")
    ours = re.compile("nvidia-.*|cuda-.*")
    differing = {name for name in lock.keys() | newer.keys() if lock.get(name) != newer.get(name)}
    assert {name for name in differing if not ours.fullmatch(name)} == CHANGED


def test_the_makefile_and_the_workflow_run_it():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "NEWEST_LOCK ?= requirements-newest.txt" in makefile
    assert "-m tests.soak.newest --lock" in makefile
    assert "make test-newest" in (ROOT / ".github/workflows/newest.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize(("lock", "why"), [("/nonexistent", "cannot be run"), ("/bin/false", "lacks what is compared")])
def test_a_lock_that_is_no_environment_is_said(lock, why, capsys):
    with pytest.raises(SystemExit):
        newest.main(["--lock", lock])
    assert f"{lock} {why}" in capsys.readouterr().err
