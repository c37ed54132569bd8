"""Whole ops at many shapes, compiled as the JIT specialises them on a chip of sm_90: registers, spills, programs.

The compile gate builds each kernel once, at sizes that 16 divides. Others are compiled apart: a size of 1 is compiled
in, and a pointer, stride or size that 16 does not divide takes narrower loads and more registers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .cases import BF16, BYTES, FP16, FP32, Case, Crops, blank, contrastive, crops, distill, head, patches, photometry
from .dry import dry
from .gate import Row
from .gate import read as read_kernel

ARCHITECTURE = 90
# Bytes of spills a thread that are accepted: (op, kernel, part of the shape) -> (at most, why).
ALLOWED: dict[tuple[str, str, str], tuple[int, str]] = {}


@dataclass(frozen=True)
class ShapeRow:
    """A kernel as it was specialised in a call. reason: why it spills, where that is accepted."""

    op: str
    shape: str
    kernel: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    programs: int
    serialized: bool
    hazards: int
    reason: str


def cases() -> Iterator[Case]:
    yield from _distill()
    yield from _head()
    yield from _contrastive()
    yield from _patches()
    for views, height, width in ((4, 224, 224), (1, 7, 7), (2, 33, 47)):
        yield photometry(views, height, width)
    yield crops(224, (480, 640, 400, 500), (375, 500, 96, 96))
    yield crops(96, (33, 47, 33, 47))
    yield crops(1, (1, 1, 1, 1))


def quick() -> Iterator[Case]:
    """One or two of each op that are specialised otherwise than the compile gate's."""
    yield distill(16, 3, 1037, 2, (BF16, FP32))
    yield head(2, 3, 1037, 2, 72, BF16)
    yield contrastive("softmax", 1, 100, 12, BF16)
    yield contrastive("sigmoid", 2, 301, 72, BF16)
    yield contrastive("softmax", 1, 200, 72, BF16, ranks=2, chunk=64)
    yield patches([Crops(4, 224, 224)], 7, 100, BF16)
    yield photometry(2, 33, 47)
    yield crops(96, (33, 47, 33, 47))


def _distill() -> Iterator[Case]:
    for students, samples, prototypes, teachers, kinds in (
        (10, 1024, 65536, 2, (BF16, BF16)),
        (1, 1, 1, 1, (BF16, BF16)),
        (1, 1, 65536, 1, (BF16, BF16)),
        (2, 1, 7, 8, (FP32, FP32)),
        (16, 3, 1037, 2, (BF16, FP32)),
        (17, 2, 4096, 2, (FP32, BF16)),
        (3, 5, 1037, 1, (FP16, BF16)),
        (4, 1, 65537, 8, (BF16, FP32)),
        (32, 1, 4096, 1, (BF16, BF16)),
        (11, 2, 4096, 3, (BF16, BF16)),
    ):
        yield distill(students, samples, prototypes, teachers, kinds)
    yield distill(3, 4, 64, 2, (BF16, BF16), "strided")
    yield distill(10, 8, 4096, 2, (BF16, BF16), "in place")


def _head() -> Iterator[Case]:
    for students, samples, prototypes, teachers, width, dtype in (
        (10, 1024, 65536, 2, 256, BF16),
        (10, 1024, 65536, 2, 256, FP16),
        (1, 1, 1, 1, 1, BF16),
        (1, 1, 64, 1, 16, BF16),
        (2, 3, 1037, 2, 72, BF16),
        (4, 64, 4096, 2, 128, BF16),
        (4, 64, 4096, 2, 64, BF16),
        (4, 64, 4096, 2, 32, BF16),
        (4, 64, 4096, 2, 16, BF16),
        (10, 128, 65536, 2, 192, FP16),
        (1, 16, 65536, 1, 256, BF16),
        (10, 64, 65537, 8, 256, BF16),
        (16, 4, 100, 1, 256, FP16),
    ):
        yield head(students, samples, prototypes, teachers, width, dtype)


def _contrastive() -> Iterator[Case]:
    for kind in ("softmax", "sigmoid"):
        for views, n, width, dtype in (
            (1, 4096, 768, BF16),
            (1, 1, 1, BF16),
            (1, 1, 8, BF16),
            (2, 301, 72, BF16),
            (1, 100, 12, BF16),
            (1, 17, 512, FP32),
            (1, 257, 512, FP16),
            (1, 300, 770, BF16),
            (1, 1, 16, FP32),
            (1, 4096, 1152, BF16),
            (1, 130, 8, FP16),
        ):
            yield contrastive(kind, views, n, width, dtype)
        yield contrastive(kind, 1, 200, 72, BF16, ranks=2, chunk=64)
        yield contrastive(kind, 8, 9, 40, BF16, ranks=2, chunk=16, elements=256)


def _patches() -> Iterator[Case]:
    readme = [Crops(4, 256, 256), Crops(8, 96, 96)]
    yield patches(readme, 16, 768, BF16, prefix=0)
    yield patches(readme, 16, 768, BF16)
    yield patches(readme, 16, 768, FP16)
    yield patches(readme, 16, 768, FP32)
    for patch, side, width in (
        *((1, 8, 16), (2, 8, 16), (4, 32, 64), (7, 224, 100), (8, 64, 128), (14, 224, 1024), (16, 16, 1)),
        *((18, 180, 768), (20, 160, 768), (28, 224, 768), (32, 512, 768), (48, 192, 768), (64, 1024, 768)),
    ):
        yield patches([Crops(4, side, side)], patch, width, BF16)
    for patch, side in ((8, 64), (14, 224), (16, 256), (32, 256), (64, 256)):
        yield patches([Crops(4, side, side, FP32)], patch, 768, BF16)
    yield patches([Crops(4, 256, 256, BF16)], 16, 768, BF16)
    yield patches([Crops(4, 256, 256, FP32)], 16, 768, FP32)
    yield patches([Crops(4, 256, 256, FP32)], 64, 768, FP32)
    for patch, side in ((14, 224), (16, 256), (32, 256)):
        yield patches([Crops(4, side, side, BYTES, last=True)], patch, 768, BF16)
    yield patches([Crops(4, 256, 256, FP32, last=True)], 16, 768, BF16)
    yield patches([Crops(4, 16, 2048), Crops(2, 512, 2048)], 16, 768, BF16)
    for width in (772, 1664):
        yield patches([Crops(4, 256, 256)], 16, width, BF16)
    yield patches(readme, 16, 768, BF16, weights=BF16)


_READ: dict[str, Row] = {}


def compiled(case: Case) -> tuple[list[ShapeRow], list[str]]:
    """(a row for each specialisation of each kernel of a call, what a chip would refuse of its launches)."""
    with dry(ARCHITECTURE) as run:
        case.run(blank)
    found = []
    for launch in {id(each.compiled): each for each in run.launches}.values():
        row = _row(launch.kernel, launch.compiled)
        numbers = row.registers, row.spill_bytes, row.shared_bytes, row.programs, row.serialized, row.hazards
        reason = _allowed(case.op, launch.kernel, case.label)[1] if row.spill_bytes else ""
        found.append(ShapeRow(case.op, case.label, launch.kernel, *numbers, reason))
    found = list(dict.fromkeys(found))
    return found, [f"{case.op} {case.label}: {problem}" for problem in dict.fromkeys(run.problems)]


def _row(name: str, kernel: Any) -> Row:
    if kernel.hash not in _READ:
        _READ[kernel.hash] = read_kernel(name, kernel, ARCHITECTURE)
    return _READ[kernel.hash]


def _allowed(op: str, kernel: str, shape: str) -> tuple[int, str]:
    for (an_op, a_kernel, part), allowed in ALLOWED.items():
        if (an_op, a_kernel) == (op, kernel) and part in shape:
            return allowed
    return 0, ""


def faults(row: ShapeRow) -> list[str]:
    """What is wrong with a kernel in a call; empty: nothing."""
    where = f"{row.op} {row.shape}: {row.kernel}"
    most = _allowed(row.op, row.kernel, row.shape)[0]
    found = []
    if row.spill_bytes > most:
        found.append(f"{where} spills {row.spill_bytes} bytes a thread ({most} allowed)")
    if row.programs < 1:
        found.append(f"{where} does not fit a multiprocessor")
    if row.serialized:
        found.append(f"{where} waits for each wgmma before the next")
    if row.hazards:
        found.append(f"{where} writes registers of a wgmma in flight in {row.hazards} instructions")
    return found
