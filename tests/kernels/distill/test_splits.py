"""How the head's kernels are split among multiprocessors: everything once, and in the least time."""

import heapq

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from silc_kernels.common.triton_runtime import Chip, standing_in
from silc_kernels.distill import triton_head_launch as launch
from silc_kernels.distill.triton_head_plan import Features, attention_plan, gradient_plan

CPU = torch.device("cpu")


def ends(lengths: list[int], slots: int) -> int:
    """When the last of these programs ends, each of which takes the slot that is free first."""
    free = [0] * slots
    for length in lengths:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


@given(
    many=st.integers(0, 60),
    each=st.integers(1, 30),
    more=st.integers(1, 60),
    last=st.integers(1, 30),
    slots=st.integers(1, 24),
)
def test_the_time_of_programs_is_that_of_a_simulation(many, each, more, last, slots):
    last = min(each, last)
    assert launch.makespan(many, each, more, last, slots) == ends([each] * many + [last] * more, slots)


@given(
    blocks=st.integers(1, 24),
    rows=st.sampled_from([64, 128]),
    length=st.integers(1, 1000),
    columns=st.sampled_from([32, 64]),
    processors=st.integers(1, 12),
    side=st.integers(1, 3),
)
def test_no_other_splits_take_less_time(blocks, rows, length, columns, processors, side):
    count, each = launch.splits(blocks, blocks * rows * 256, length, columns, processors, side)
    assert (count - 1) * each < length <= count * each
    assert each % columns == 0
    tiles, slots = -(-length // columns), processors * side

    def time(pieces: int) -> int:
        lengths = [pieces] * (tiles // pieces) + ([tiles % pieces] if tiles % pieces else [])
        programs = [length + launch.STARTING for length in lengths for _ in range(blocks)]
        # Programs that share a multiprocessor take as many times as long; sums are written, read and merged.
        return ends(programs, slots) * side * columns + len(lengths) * (2 * blocks + 16)

    most = max(1, min(tiles, slots, launch.MOST_PARTIAL_BYTES // (4 * blocks * rows * 256)))
    assert count <= most
    allowed = [pieces for pieces in range(1, tiles + 1) if -(-tiles // pieces) <= most]
    assert time(each // columns) == min(map(time, allowed))


@given(
    students=st.integers(1, 20000),
    teachers=st.integers(1, 4000),
    prototypes=st.integers(1, 70000),
    width=st.sampled_from([16, 64, 256]),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
    architecture=st.sampled_from([80, 86, 90, 100]),
    processors=st.integers(1, 148),
)
def test_every_row_and_every_prototype_is_taken_once(
    students, teachers, prototypes, width, dtype, architecture, processors
):
    given = Features(*(torch.empty(0),) * 4, dtype, width)
    with standing_in(Chip(architecture, processors)):
        plans = [
            (attention_plan(who, given, rows, prototypes), rows)
            for who, rows in (("student", students), ("teacher", teachers))
        ]
        gradient = gradient_plan(given, students, teachers, prototypes)
    for plan, rows in plans:
        assert (plan.splits - 1) * plan.per_split < prototypes <= plan.splits * plan.per_split
        assert plan.splits == 1 or 4 * plan.splits * rows * width <= launch.MOST_PARTIAL_BYTES
        assert len(plan.forms) == 1 + plan.bounded == (2 if dtype == torch.bfloat16 else 1)
        for form in plan.forms:
            blocks, count = form.grid
            assert (blocks - 1) * form.config.rows < rows <= blocks * form.config.rows
            assert count == plan.splits
            assert plan.per_split % form.config.columns == 0
    blocks, count = gradient.grid
    assert (blocks - 1) * gradient.config.rows < prototypes <= blocks * gradient.config.rows
    for rows, each in ((students, gradient.student_split), (teachers, gradient.teacher_split)):
        assert rows <= count * each
        assert each % gradient.config.columns == 0


@pytest.mark.parametrize("rows", [512, 1024, 2048, 4096, 5120, 8192, 10240, 12288, 16384, 20480])
@pytest.mark.parametrize(("architecture", "processors"), [(80, 108), (90, 132)])
def test_few_multiprocessors_idle_at_usual_sizes(rows, architecture, processors):
    """65536 prototypes, 256 features. 10240 rows in three equal splits would leave 9 of 100 idle."""
    config = launch.SHIPPED["bounded student", architecture]
    assert config.programs == 2
    blocks, slots = -(-rows // config.rows), 2 * processors
    count, each = launch.splits(blocks, rows * 256, 65536, config.columns, processors, 2)
    time = ends([each] * blocks * (count - 1) + [65536 - (count - 1) * each] * blocks, slots)
    busy = blocks * 65536 / (slots * time)
    assert busy > (0.93 if rows == 20480 else 0.965)  # a fourth split of 20480 rows would exceed the memory


def test_the_prototypes_gradient_is_split_where_prototypes_are_few():
    for prototypes, least, most in ((4096, 4, 8), (65536, 1, 1)):
        count, _ = launch.splits(prototypes // 128, prototypes * 256, 12288, 64, 132, 1)
        assert least <= count <= most


@pytest.mark.parametrize(("architecture", "programs"), [(80, 2), (86, 1), (89, 1), (90, 2), (100, 1), (103, 1)])
def test_programs_are_counted_on_chips_that_are_compiled_for(architecture, programs):
    with standing_in(Chip(architecture, 100)):
        config = launch.attention("student", torch.bfloat16, CPU).usual
        assert launch.side_by_side(config, CPU) == programs
