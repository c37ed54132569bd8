"""Tests of the Triton kernels, natively on a GPU, else under the interpreter (see test_interpreted.py).

    python -m pytest tests/kernels/device                       on a machine with a GPU
    TRITON_INTERPRET=1 python -m pytest tests/kernels/device    anywhere
    SILC_KERNELS_DRY=90 python -m pytest tests/kernels/device   what they launch, compiled for sm_90, checked, not run

Nothing here is collected where none holds: one process can hold native or interpreted kernels, not both.
torch, triton, numpy and pytest are enough: what more a test needs it asks the fixture `needs` for. Where an environment
has no more on purpose, as one with a GPU may, SILC_KERNELS_ALONE=1 says so, and those tests are skipped.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch

INTERPRET = os.environ.get("TRITON_INTERPRET", "0") == "1"
DRY = int(os.environ.get("SILC_KERNELS_DRY") or 0)
ALONE = os.environ.get("SILC_KERNELS_ALONE", "0") == "1"
DEVICE = torch.device("cpu" if INTERPRET or DRY or not torch.cuda.is_available() else "cuda")

if not INTERPRET and not DRY and DEVICE.type == "cpu":
    collect_ignore_glob = ["*"]
elif INTERPRET:
    # Before any test: each would fail with the interpreter's own error, deep inside.
    from tests.kernels.device.interpreter import trouble

    if why := trouble():
        raise pytest.UsageError(why)


# What the kernels do not take, plain torch does on a GPU; a dry run has the kernels forced, and refuses.
REFUSED = "forced by SILC_KERNELS_BACKEND=triton, cannot run this call"
LAUNCHED: dict[str, int] = {}  # test -> launches, where kernels are not run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Where kernels are not run a test can only fail by what it launches: behind a launch values are garbage, and what
    the test expects of them is not looked at. Any other error is one, and so is a test that fails without a launch.
    """
    if not DRY:
        return (yield)
    from silc_kernels.gate.dry import dry

    with dry(DRY) as run:
        try:
            yield
        except (AssertionError, pytest.fail.Exception):
            if not run.launches:
                raise
        except ValueError as error:
            if REFUSED not in str(error):
                raise
        finally:
            LAUNCHED[item.nodeid] = len(run.launches)
    assert not run.problems, "\n".join(run.problems)
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if DRY:
        none = [test for test, launches in LAUNCHED.items() if not launches]
        terminalreporter.write_line(f"{len(LAUNCHED) - len(none)} tests launched kernels, {len(none)} none:")
        for test in none:
            terminalreporter.write_line(f"  {test}")


@pytest.fixture
def device() -> torch.device:
    return DEVICE


@pytest.fixture
def needs() -> Callable[[str], ModuleType]:
    """Imports a package by name. Where it is missing the test fails, but on a machine with a GPU, or where
    SILC_KERNELS_ALONE is 1, it is skipped: such a machine may have torch, triton and pytest alone.
    """
    return pytest.importorskip if ALONE or torch.cuda.is_available() else importlib.import_module


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers that are made empty hold NaN (integers: the largest), so that what a kernel leaves unwritten shows."""

    def fill(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype != torch.bool:
            floating = tensor.is_floating_point()
            tensor.detach().fill_(torch.nan if floating else torch.iinfo(tensor.dtype).max)
        return tensor

    def poisoning(make):
        return lambda *args, **kwargs: fill(make(*args, **kwargs))

    monkeypatch.setattr(torch, "empty", poisoning(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoning(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoning(torch.Tensor.new_empty))
