"""The fixture of conftest.py that imports what not every machine with a GPU has, and its check of the interpreter."""

import os

import pytest
import torch

from silc_kernels.common.triton_runtime import INTERPRET
from tests.kernels.device import interpreter

ALONE = os.environ.get("SILC_KERNELS_ALONE", "0") == "1"


def test_a_missing_package_fails_a_test_and_skips_it_on_a_gpu_alone(needs):
    assert needs("json").dumps(1) == "1"
    with pytest.raises(pytest.skip.Exception if ALONE or torch.cuda.is_available() else ModuleNotFoundError):
        needs("no_package_of_this_name")


def test_an_interpreter_that_does_not_fit_is_named_with_the_way_out(monkeypatch):
    if INTERPRET:  # a GPU's tests do not ask: compiled kernels take no tensor of a CPU
        assert interpreter.trouble() == ""

    def failing(*args):
        raise TypeError("only 0-dimensional arrays can be converted to Python scalars")

    monkeypatch.setattr(interpreter, "counting", {(1,): failing})
    assert "only 0-dimensional arrays" in interpreter.trouble()
    assert "need NumPy below 2.4, or triton 3.8" in interpreter.trouble()
