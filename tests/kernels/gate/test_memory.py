"""The ops' memory under the interpreter: nothing outside of a launch's arguments, no program in another one's way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from silc_kernels.gate import fuzz
from silc_kernels.gate.guard import guard
from silc_kernels.gate.race import race

PLANTED = Path(__file__).with_name("planted.py")
OPS = ("distill_loss", "distill_head_loss", "contrastive_loss", "patch_embed", "photometric", "crop_resize")
# (kernel, words) of each planted fault; None: there is none.
FOUND = {
    "nothing": None,
    "read past the end": ("copy", "reads 4 bytes past the end of x"),
    "write past the end": ("copy", "writes 4 bytes past the end of y"),
    "write before": ("copy", "writes 4 bytes before the beginning of y"),
    "view of a larger buffer": ("copy", "reads 4 bytes past the end of x"),
    "descriptor": None,
    "descriptor too tall": ("described", "bytes past the end of x"),
    "no race": None,
    "write-write": ("shared", "program (1, 0, 0) writes what program (0, 0, 0) has written of y"),
    "read-after-write": ("handed_on", "program (1, 0, 0) reads what program (0, 0, 0) has written of y"),
    "write-after-read": ("read_before", "program (1, 0, 0) writes what program (0, 0, 0) has read of y"),
    "own write": ("own", "program (0, 0, 0) reads what it has written itself of y"),
    "atomic": ("added", "by an atomic"),
}


def planted(*names: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PLANTED), *names], capture_output=True, text=True, env={**os.environ})


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    done = planted(*FOUND)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", FOUND)
def test_a_planted_fault_is_found_in_words(found, name):
    if FOUND[name] is None:
        assert found[name] == []
    else:
        kernel, words = FOUND[name]
        assert any(problem.startswith(f"{kernel}: ") and words in problem for problem in found[name]), found[name]


@pytest.mark.parametrize("name", ["read past the end", "write past the end", "descriptor too tall"])
def test_what_goes_around_the_checks_ends_in_a_signal(name):
    assert planted("unchecked", name).returncode == -signal.SIGSEGV


def test_a_write_before_the_beginning_that_goes_around_the_checks_changes_canaries():
    done = planted("unchecked", "write before")
    assert json.loads(done.stdout)["write before"] == ["copy: bytes beside y have changed"]


def test_a_signal_is_reported_with_its_case(capsys):
    code = "import os; print('case crop_resize R=3', flush=True); os.kill(os.getpid(), 11)"
    with pytest.raises(SystemExit, match="ended by signal 11 in case crop_resize R=3"):
        fuzz.watch([sys.executable, "-c", code], os.environ)
    assert "case crop_resize" in capsys.readouterr().out


@pytest.mark.parametrize("instrument", [guard, race])
def test_kernels_that_are_compiled_cannot_be_watched(instrument):
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"), instrument():
        pass


@pytest.mark.timeout(600)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("instrument", "cases"), [("guard", 6), ("race", 4)])
def test_the_ops_stay_within_their_memory_and_out_of_each_others_way(instrument, cases, op):
    count = 2 * cases if op == "patch_embed" else cases
    command = [sys.executable, "-m", "silc_kernels.gate.fuzz", instrument, "--only", op, "--cases", str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert f"{count} cases, 0 problems" in done.stdout


def test_cases_of_a_seed_are_the_same_and_those_of_others_not():
    from silc_kernels.gate.cases import drawn, random_cases

    def labels(seed: int) -> list[str]:
        stream = random_cases("patch_embed", seed)
        return [next(stream).label for _ in range(5)]

    assert labels(1) == labels(1) != labels(2)
    assert torch.equal(drawn(3)((5,), torch.float32), drawn(3)((5,), torch.float32))
