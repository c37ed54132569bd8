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
def added(y):
    tl.atomic_add(y, 1.0)


def _described(rows):
    """A descriptor that promises `rows` of a tensor of 4."""
    x = torch.zeros(4, 16)
    described[(1,)](TensorDescriptor(x, [rows, 16], [16, 1], [8, 16]), torch.zeros(16), BLOCK=16)


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
    "own write": (race, lambda: own[(2,)](torch.zeros(2))),
    "atomic": (race, lambda: added[(2,)](torch.zeros(1))),
}


def main() -> None:
    checked = "unchecked" not in sys.argv
    found = {}
    for name in sys.argv[1:]:
        if name != "unchecked":
            instrument, launch = FAULTS[name]
            with instrument() if instrument is race else instrument(checked=checked) as run:
                launch()
            found[name] = run.problems
    print(json.dumps(found))


if __name__ == "__main__":
    main()
