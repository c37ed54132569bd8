"""The driver without a GPU: what a chip would refuse of a launch is found and said."""

import subprocess
import sys

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import OutOfResources
from triton.tools.tensor_descriptor import TensorDescriptor

from silc_kernels import contrastive_loss, distill_loss
from silc_kernels.common import triton_runtime
from silc_kernels.gate import shapes
from silc_kernels.gate.dry import dry, map_problems, rows
from silc_kernels.gate.gate import shared_limit

BF16 = torch.bfloat16


@triton.jit
def copy(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, mask=at < n), mask=at < n)


@triton.jit
def described(x, y, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    tile = x.load([0, 0]).to(tl.float32)
    tl.store(y + tl.arange(0, COLUMNS), tl.sum(tile, 0))


@triton.jit
def square(x, y, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    tile = tl.load(x + at)
    tl.store(y + at, tl.dot(tile, tl.trans(tile)))


def numbers(n: int, offset: int = 0) -> torch.Tensor:
    """float32 [n], `offset` elements behind a multiple of 16 bytes."""
    whole = torch.zeros(n + offset + 4)
    start = (-whole.data_ptr() // 4) % 4 + offset
    return whole[start : start + n]


def tall(rows: int, width: int, box: tuple[int, int]) -> TensorDescriptor:
    return TensorDescriptor(torch.zeros(rows, width, dtype=BF16), [rows, width], [width, 1], list(box))


def test_a_sound_launch_has_no_problems():
    with dry(90) as run:
        copy[(4,)](numbers(256), numbers(256), 256, BLOCK=64)
        described[(1,)](tall(64, 64, (64, 64)), numbers(64), ROWS=64, COLUMNS=64)
    assert run.problems == []
    assert [(launch.kernel, launch.grid) for launch in run.launches] == [("copy", (4, 1, 1)), ("described", (1, 1, 1))]
    assert rows(run.launches, 90)[0].registers > 0


@pytest.mark.parametrize("grid", [(1, 65536), (1, 1, 65536), (0,), (2**31,)])
def test_a_grid_beyond_the_limits(grid):
    with dry(90) as run:
        copy[grid](numbers(64), numbers(64), 64, BLOCK=64)
    assert any("copy: a grid of" in problem for problem in run.problems)


def test_a_tensor_map_that_the_driver_would_refuse():
    """Triton cuts some of it to size or refuses it, by version: the limits are held against what would be encoded."""
    sound = {"block_size": [64, 64], "swizzle": 3}
    assert list(map_problems(tall(64, 64, (64, 64)), sound)) == []
    (box,) = map_problems(tall(512, 64, (512, 64)), sound | {"block_size": [512, 64]})
    assert "a box of [512, 64]; at most 256" in box
    (lines,) = map_problems(tall(64, 64, (64, 4)), sound | {"block_size": [64, 4]})
    assert "lines have 8 bytes; a multiple of 16" in lines
    (swizzle,) = map_problems(tall(64, 64, (64, 64)), sound | {"swizzle": 2})
    assert "its swizzle takes 64" in swizzle
    narrow = tall(64, 64, (64, 64))
    narrow.strides = [60, 1]
    assert any("strides of [120] bytes" in problem for problem in map_problems(narrow, sound))
    empty = tall(64, 64, (64, 64))
    empty.shape = [0, 64]
    assert any("a shape of [0, 64]" in problem for problem in map_problems(empty, sound))


def test_a_tensor_map_whose_base_is_not_aligned():
    moved = tall(65, 64, (64, 64))
    with dry(90) as run:
        moved.base = moved.base.view(-1)[4:-60].view(64, 64)  # behind the check of its constructor
        described[(1,)](moved, numbers(64), ROWS=64, COLUMNS=64)
    assert run.problems == ["described: x: a base that is no multiple of 16 bytes"]


def test_more_shared_memory_than_a_chip_has():
    x = torch.zeros(512, 512, dtype=BF16)
    with dry(90), pytest.raises(OutOfResources, match="shared memory"):
        square[(1,)](x, torch.zeros(512, 512), SIZE=512, num_warps=8)


def test_arguments_that_do_not_fit_what_was_compiled():
    with dry(90) as run:
        compiled = copy[(1,)](numbers(64), numbers(64), 64, BLOCK=64)
        compiled[(1, 1, 1)](numbers(64, 1), numbers(64), 64, 64)
        compiled[(1, 1, 1)](numbers(64), numbers(64), 63, 64)
        compiled[(1, 1, 1)](numbers(64).to(BF16), numbers(64), 64, 64)
        compiled[(1, 1, 1)](numbers(64), numbers(64), 2**35, 64)
        compiled[(1, 1, 1)](numbers(64), numbers(64), 64, 128)
    expected = (
        ("copy: x: ", "is no multiple of 16, for which it was compiled"),
        ("copy: n: 63", "is no multiple of 16"),
        ("copy: x: ", "*bf16 where it was compiled for *fp32"),
        ("copy: n: ", "does not fit the 32 bits"),
        ("copy: BLOCK is 128", "where it was compiled for 64"),
    )
    assert len(run.problems) == len(expected)
    for problem, (start, words) in zip(run.problems, expected, strict=True):
        assert problem.startswith(start)
        assert words in problem


def test_what_is_specialised_apart_is_compiled_apart():
    with dry(90) as run:
        for x, n in ((numbers(64), 64), (numbers(64, 1), 64), (numbers(64), 63), (numbers(64), 1)):
            copy[(1,)](x, numbers(64), n, BLOCK=64)
        copy[(1,)](numbers(64), numbers(64), 48, BLOCK=64)  # as the first
    assert len({id(launch.compiled) for launch in run.launches}) == 4


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_launches_are_those_of_the_chip(architecture):
    with dry(architecture) as run:
        contrastive_loss(torch.zeros(8, 16), torch.zeros(8, 16), torch.ones(1))
    assert run.architecture == architecture
    assert {launch.compiled.metadata.target.arch for launch in run.launches} == {architecture}


@pytest.mark.parametrize("architecture", [86, 89, 103, 120])
def test_chips_between_the_measured_ones_are_compiled_for_as_they_are(architecture):
    with dry(architecture) as run:
        contrastive_loss(torch.zeros(8, 16, dtype=BF16), torch.zeros(8, 16, dtype=BF16), torch.ones(1))
    assert {launch.compiled.metadata.target.arch for launch in run.launches} == {architecture}
    assert run.problems == []
    assert all(row.programs >= 1 for row in rows(run.launches, architecture))


def test_a_chip_has_the_shared_memory_of_its_own():
    assert [shared_limit(chip) // 1024 for chip in (80, 86, 89, 90, 103, 120)] == [163, 99, 99, 227, 227, 99]
    assert shared_limit(130) == shared_limit(80)  # one that is not known has its family's
    with dry(86):
        properties = triton.runtime.driver.active.utils.get_device_properties(0)
    assert (properties["max_shared_mem"], properties["multiprocessor_count"]) == (99 * 1024, 84)


def _launch_and_fail() -> None:
    copy[(1,)](numbers(64), numbers(64), 64, BLOCK=64)
    raise RuntimeError("after a launch")


def test_all_is_as_before_afterwards(monkeypatch):
    monkeypatch.delenv("SILC_KERNELS_BACKEND", raising=False)
    addmm, active = torch.addmm, triton.runtime.driver._active
    inputs = torch.randn(2, 3, 5), torch.randn(2, 3, 5), torch.zeros(5)
    expected = distill_loss(*inputs, student_temp=0.1, teacher_temp=0.04)
    with pytest.raises(RuntimeError, match="after a launch"), dry(90, checked=False):
        _launch_and_fail()
    assert not copy.device_caches
    assert torch.addmm is addmm
    assert triton.runtime.driver._active is active
    assert triton_runtime._stand_in is None
    assert torch.equal(distill_loss(*inputs, student_temp=0.1, teacher_temp=0.04), expected)


@pytest.mark.parametrize("case", shapes.quick(), ids=lambda case: f"{case.op} {case.label}")
def test_odd_shapes_neither_spill_nor_are_refused(case):
    found, problems = shapes.compiled(case)
    assert found
    assert problems == []
    assert [fault for row in found for fault in shapes.faults(row)] == []


def test_random_shapes_are_launched_without_a_problem():
    command = [sys.executable, "-m", "silc_kernels.gate.fuzz", "dry", "--cases", "1", "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "7 cases, 0 problems" in done.stdout
