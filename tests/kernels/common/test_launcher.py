"""Launches by keys of plain values: the kernels that Triton itself would launch, and no others."""

import os
import subprocess
import sys

import pytest
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from silc_kernels.common import launcher as module
from silc_kernels.common.launcher import launcher
from silc_kernels.gate.dry import dry


@triton.jit
def scaled(x, y, n, factor, extra, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < n) * factor
    if extra is not None:
        value += tl.load(extra)
    tl.store(y + at, value, mask=at < n)


@triton.jit
def summed(x, y, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    tl.store(y + tl.arange(0, COLUMNS), tl.sum(x.load([0, 0]), 0))


@triton.jit
def constexpr_first(BLOCK: tl.constexpr, y):
    tl.store(y + tl.arange(0, BLOCK), 0.0)


def numbers(dtype: torch.dtype = torch.float32, offset: int = 0) -> torch.Tensor:
    """[64], `offset` elements behind a multiple of 16 bytes."""
    whole, size = torch.zeros(96, dtype=dtype), dtype.itemsize
    start = (-whole.data_ptr() // size) % (16 // size) + offset
    return whole[start : start + 64]


ALIGNED, SHIFTED, HALF = numbers(), numbers(offset=1), numbers(torch.bfloat16)
PARAMETER = torch.nn.Parameter(numbers())
# Arguments of `scaled`, and which of them Triton compiles apart.
CALLS = {
    "plain": (ALIGNED, ALIGNED, 64, 1.5, None),
    "another value of a float": (ALIGNED, ALIGNED, 64, 2.5, None),
    "another multiple of 16": (ALIGNED, ALIGNED, 48, 1.5, None),
    "a parameter": (PARAMETER, ALIGNED, 64, 1.5, None),
    "not aligned": (SHIFTED, ALIGNED, 64, 1.5, None),
    "the other not aligned": (ALIGNED, SHIFTED, 64, 1.5, None),
    "bfloat16": (HALF, ALIGNED, 64, 1.5, None),
    "no multiple of 16": (ALIGNED, ALIGNED, 63, 1.5, None),
    "one": (ALIGNED, ALIGNED, 1, 1.5, None),
    "true": (ALIGNED, ALIGNED, True, 1.5, None),
    "beyond 32 bits": (ALIGNED, ALIGNED, 2**40, 1.5, None),
    "a whole factor": (ALIGNED, ALIGNED, 64, 2, None),
    "no None": (ALIGNED, ALIGNED, 64, 1.5, ALIGNED),
}


def test_the_same_kernels_are_launched_as_by_triton_itself():
    with dry(90) as run:
        for call in CALLS.values():
            scaled[(2, 3)](*call, BLOCK=64, num_warps=2)
        expected = [(launch.grid, launch.compiled.hash) for launch in run.launches]
    with dry(90) as run:
        launch = launcher(scaled, BLOCK=64, num_warps=2)
        for _ in range(2):  # compiled, then found
            for call in CALLS.values():
                launch((2, 3), *call)
        assert [(each.grid, each.compiled.hash) for each in run.launches] == 2 * expected
        assert run.problems == []
    assert len({name for _, name in expected}) == 10  # the second to the fourth are as the first


def test_descriptors_are_apart_by_box_and_dtype():
    x = torch.zeros(64, 64)
    descriptors = [
        TensorDescriptor.from_tensor(x, [32, 64]),
        TensorDescriptor.from_tensor(x, [64, 64]),
        TensorDescriptor.from_tensor(x.bfloat16(), [32, 64]),
        TensorDescriptor.from_tensor(torch.zeros(8, 64), [32, 64]),  # another tensor, the same kernel
    ]
    with dry(90) as run:
        for _ in range(2):
            for descriptor in descriptors:
                launcher(summed, ROWS=32, COLUMNS=64)((1,), descriptor, numbers())
        compiled = [launch.compiled for launch in run.launches]
    assert run.problems == []
    assert compiled[0] is compiled[3] is compiled[4] is compiled[7]
    assert len(set(map(id, compiled))) == 3


def test_grids_of_one_to_three_numbers():
    with dry(90) as run:
        launch = launcher(scaled, BLOCK=64)
        for grid in ((5,), (5,), (5, 6), (5, 6, 7)):
            launch(grid, *CALLS["plain"])
    assert [each.grid for each in run.launches] == [(5, 1, 1), (5, 1, 1), (5, 6, 1), (5, 6, 7)]


def test_it_is_made_once_for_each_kernel_and_options():
    assert launcher(scaled, BLOCK=64) is launcher(scaled, BLOCK=64)
    assert launcher(scaled, BLOCK=64) is not launcher(scaled, BLOCK=32)


def test_one_that_outlives_a_run_takes_nothing_from_it():
    launch = launcher(scaled, BLOCK=64)
    for architecture in (90, 80, 90):
        with dry(architecture) as run:
            for _ in range(2):
                launch((1,), *CALLS["plain"])
        assert [each.compiled.metadata.target.arch for each in run.launches] == [architecture] * 2


def test_keys_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "MOST_KEYS", 3)
    with dry(90) as run:
        launch = launcher(scaled, BLOCK=64)
        for n in (16, 32, 48, 64, 80, 16):
            launch((1,), ALIGNED, ALIGNED, n, 1.5, None)
            assert len(launch._compiled) <= 3
    assert len(run.launches) == 6
    assert len({id(each.compiled) for each in run.launches}) == 1


def test_hooks_of_a_profiler_are_called():
    from triton import knobs

    def hook(metadata) -> None:
        raise AssertionError("launched")

    seen = []
    with dry(90):
        launch = launcher(scaled, BLOCK=64)
        launch((1,), *CALLS["plain"])
        (compiled,) = launch._compiled.values()
        compiled._run = lambda *args: seen.append(args[7:9])
        launch((1,), *CALLS["plain"])
        knobs.runtime.launch_enter_hook.add(hook)
        try:
            launch((1,), *CALLS["plain"])
        finally:
            knobs.runtime.launch_enter_hook.remove(hook)
    assert seen == [(None, None), (knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook)]


def test_a_hook_before_each_run_gets_the_arguments():
    seen = []
    with dry(90):
        launch = launcher(scaled, BLOCK=64)
        launch((1,), *CALLS["plain"])
        scaled.add_pre_run_hook(lambda *args, **options: seen.append(args[2]))
        try:
            launch((1,), *CALLS["plain"])
        finally:
            scaled.pre_run_hooks.clear()
    assert seen == [64]


def test_constexprs_come_last():
    with pytest.raises(ValueError, match=r"constexprs \['BLOCK'\] must follow"):
        launcher(constexpr_first, BLOCK=16)


INTERPRETED = """
import torch, triton, triton.language as tl
from silc_kernels.common.launcher import launcher

@triton.jit
def doubled(x, BLOCK: tl.constexpr):
    tl.store(x + tl.arange(0, BLOCK), 2 * tl.load(x + tl.arange(0, BLOCK)))

x = torch.ones(16)
for _ in range(2):
    launcher(doubled, BLOCK=16)((1,), x)
print(x.sum().item())
"""


def test_the_interpreter_runs_the_kernel_itself(tmp_path):
    script = tmp_path / "script.py"  # a file: the interpreter reads the kernel's source
    script.write_text(INTERPRETED)
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "64.0", done.stderr
