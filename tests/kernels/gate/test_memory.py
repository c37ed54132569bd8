"""The ops' memory under the interpreter: nothing outside of a launch's arguments, no program in another one's way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from silc_kernels import contrastive_loss
from silc_kernels.gate import fuzz
from silc_kernels.gate.guard import guard
from silc_kernels.gate.race import race
from silc_kernels.gate.same_ranks import same_ranks

PLANTED = Path(__file__).with_name("planted.py")
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
    "write after several read": ("all_read", "program (2, 0, 0) writes what several programs have read of y"),
    "two lanes": ("halved", "program (0, 0, 0) writes 2 places more than once of y in one store"),
    "race by keyword": ("total", "program (1, 0, 0) writes what program (0, 0, 0) has written of out"),
    "race, all by keyword": ("total", "program (1, 0, 0) writes what program (0, 0, 0) has written of out"),
    "by keyword": None,
    "all by keyword": None,
    "past the end by keyword": ("total", "reads 4 bytes past the end of x"),
    "past the end, all by keyword": ("total", "reads 4 bytes past the end of x"),
    "into an empty tensor": ("copy", "writes 4 bytes past the end of y"),
    "all are empty": ("copy", "bytes past the end of x"),
    "before an empty one": ("copy", "writes 4 bytes before the beginning of y"),
    "written by keyword": None,
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


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("instrument", "cases"), [("guard", 4), ("race", 3)])
def test_the_ops_stay_within_their_memory_and_out_of_each_others_way(instrument, cases):
    command = [sys.executable, "-m", "silc_kernels.gate.fuzz", instrument, "--cases", str(cases)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert f"{7 * cases} cases, 0 problems" in done.stdout


@pytest.mark.parametrize("instrument", ["guard", "race"])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_slices_of_several_ranks_stay_within_their_memory(kind, instrument):
    """The last slice is narrow: its tiles hold more views, and its launches more programs, than those before."""
    code = (
        "from silc_kernels.gate import cases, guard, race\n"
        f"case = cases.contrastive({kind!r}, 8, 9, 40, cases.BF16, ranks=2, chunk=16, elements=256)\n"
        f"with {instrument}.{instrument}() as run: case.run(cases.drawn(0))\n"
        "assert run.launches > 10 and not run.problems, run.problems"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stderr[-2000:]


def test_ranks_that_hold_the_same_are_those_of_a_process_group():
    """In plain torch: the loss of a rank among three that hold the same pairs, here by the whole matrix in fp64."""
    image, text = torch.randn(2, 5, 8), torch.randn(5, 8)
    with same_ranks(3):
        loss = contrastive_loss(image, text, torch.ones(1), chunk=6, backend="torch")
    similarities = image.double() @ text.double().repeat(3, 1).t()
    positives = torch.arange(5)
    rows = [functional.cross_entropy(each, positives) for each in similarities]
    columns = [functional.cross_entropy(each[:, :5].t().repeat(1, 3), positives) for each in similarities]
    assert torch.allclose(loss.double(), sum(rows + columns) / 4, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "nosuch"], "--only nosuch: no op's name contains it; there are distill_loss, "),
        (["--cases", "-1"], "--cases -1: give a number from 1 on"),
        (["--minutes", "0"], "--minutes 0: give a number above 0"),
        (["--minutes", "nan"], "--minutes nan: give a number above 0"),
        (["--minutes", "-1"], "--minutes -1: give a number above 0"),
    ],
)
def test_a_run_of_no_case_is_refused(arguments, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        fuzz.main(["guard", *arguments])
    assert words in capsys.readouterr().err


def test_cases_of_a_seed_are_the_same_and_those_of_others_not():
    from silc_kernels.gate.cases import drawn, random_cases

    def labels(seed: int) -> list[str]:
        stream = random_cases("patch_embed", seed)
        return [next(stream).label for _ in range(5)]

    assert labels(1) == labels(1) != labels(2)
    assert torch.equal(drawn(3)((5,), torch.float32), drawn(3)((5,), torch.float32))
