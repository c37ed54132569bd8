"""Kernels with a planted fault each, under the interpreter: `python planted.py NAME ...` prints what was found as JSON.

Names: of FAULTS, "unchecked" before one that is to end by a signal.
"""

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from silc_kernels.gate.guard import guard
from silc_kernels.gate.race import race


@triton.jit
def copy(x, y, n, SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at + SHIFT, tl.load(x + at, mask=at < n), mask=at < n)


@triton.jit
def described(x, y, BLOCK: tl.constexpr):
    tl.store(y + tl.arange(0, BLOCK), tl.sum(x.load([0, 0]), 0))


@triton.jit
def shared(x, y, SPREAD: tl.constexpr):
    tl.store(y + tl.program_id(0) // SPREAD, tl.load(x + tl.program_id(0)))


@triton.jit
def handed_on(y):
    """Each program reads what the one before it writes."""
    before = tl.load(y + tl.maximum(tl.program_id(0) - 1, 0))
    tl.store(y + tl.program_id(0), before + 1.0)


@triton.jit
def read_before(y):
    """Each program writes what the one before it has read."""
    after = tl.load(y + tl.program_id(0) + 1)
    tl.store(y + tl.program_id(0), after)


@triton.jit
def own(y):
    tl.store(y + tl.program_id(0), 1.0)
    tl.store(y + tl.program_id(0), tl.load(y + tl.program_id(0)) + 1.0)


@triton.jit
def total(x, out, n, B: tl.constexpr):
    """Every program writes the sum of all to the same place."""
    at = tl.arange(0, B)
    tl.store(out, tl.sum(tl.load(x + at, mask=at < n, other=0.0)))


@triton.jit
def halved(x, y, BLOCK: tl.constexpr):
    """Two lanes of a store write each place."""
    at = tl.arange(0, BLOCK)
    tl.store(y + at // 2, tl.load(x + at))


@triton.jit
def all_read(y, BLOCK: tl.constexpr):
    """Each program writes what all programs before it have read."""
    together = tl.sum(tl.load(y + tl.arange(0, BLOCK)))
    tl.store(y + BLOCK - 1, together, mask=tl.program_id(0) == 2)


@triton.jit
def added(y):
    tl.atomic_add(y, 1.0)


def _described(rows):
    """A descriptor that promises `rows` of a tensor of 4."""
    x = torch.zeros(4, 16)
    described[(1,)](TensorDescriptor(x, [rows, 16], [16, 1], [8, 16]), torch.zeros(16), BLOCK=16)


def _written_by_keyword():
    """What a kernel writes arrives where its caller looks."""
    out = torch.zeros(1)
    total[(1,)](torch.ones(100), out=out, n=100, B=128)
    assert out.item() == 100


# name -> (instrument, launch). Sizes are none that 16 bytes divide, so that no slack hides a fault.
FAULTS = {
    "nothing": (guard, lambda: copy[(1,)](torch.zeros(63), torch.zeros(63), 63, SHIFT=0, BLOCK=64)),
    "read past the end": (guard, lambda: copy[(1,)](torch.zeros(63), torch.zeros(64), 64, SHIFT=0, BLOCK=64)),
    "write past the end": (guard, lambda: copy[(1,)](torch.zeros(64), torch.zeros(63), 64, SHIFT=0, BLOCK=64)),
    "write before": (guard, lambda: copy[(1,)](torch.zeros(63), torch.zeros(63), 63, SHIFT=-1, BLOCK=64)),
    "view of a larger buffer": (
        guard,
        lambda: copy[(1,)](torch.zeros(2, 63)[0], torch.zeros(64), 64, SHIFT=0, BLOCK=64),
    ),
    "descriptor": (guard, lambda: _described(4)),
    "descriptor too tall": (guard, lambda: _described(5)),
    "no race": (race, lambda: shared[(4,)](torch.zeros(4), torch.zeros(4), SPREAD=1)),
    "write-write": (race, lambda: shared[(4,)](torch.zeros(4), torch.zeros(4), SPREAD=2)),
    "read-after-write": (race, lambda: handed_on[(4,)](torch.zeros(4))),
    "write-after-read": (race, lambda: read_before[(4,)](torch.zeros(5))),
    "write after several read": (race, lambda: all_read[(3,)](torch.zeros(4), BLOCK=4)),
    "two lanes": (race, lambda: halved[(1,)](torch.zeros(4), torch.zeros(2), BLOCK=4)),
    "race by keyword": (race, lambda: total[(4,)](torch.zeros(100), out=torch.zeros(1), n=100, B=128)),
    "race, all by keyword": (race, lambda: total[(4,)](x=torch.zeros(100), out=torch.zeros(1), n=100, B=128)),
    "by keyword": (guard, lambda: total[(1,)](torch.zeros(100), out=torch.zeros(1), n=100, B=128)),
    "all by keyword": (guard, lambda: total[(1,)](out=torch.zeros(1), n=100, x=torch.zeros(100), B=128)),
    "past the end by keyword": (guard, lambda: total[(1,)](torch.zeros(99), out=torch.zeros(1), n=100, B=128)),
    "past the end, all by keyword": (
        guard,
        lambda: total[(1,)](B=128, n=100, out=torch.zeros(1), x=torch.zeros(99)),
    ),
    "into an empty tensor": (guard, lambda: copy[(1,)](torch.zeros(63), torch.zeros(0), 63, SHIFT=0, BLOCK=64)),
    "all are empty": (guard, lambda: copy[(1,)](torch.zeros(0), y=torch.zeros(0), n=63, SHIFT=0, BLOCK=64)),
    "before an empty one": (guard, lambda: copy[(1,)](torch.zeros(63), torch.zeros(0), 63, SHIFT=-1, BLOCK=64)),
    "written by keyword": (guard, lambda: _written_by_keyword()),
    "own write": (race, lambda: own[(2,)](torch.zeros(2))),
    "atomic": (race, lambda: added[(2,)](torch.zeros(1))),
}


def main() -> None:
    checked = "unchecked" not in sys.argv
    found = {}
    for name in sys.argv[1:]:
        if name != "unchecked":
            instrument, launch = FAULTS[name]
            with guard(checked=checked) if instrument is guard else race() as run:
                launch()
            found[name] = run.problems
    print(json.dumps(found))


if __name__ == "__main__":
    main()
