"""Tiles of rows, as all kernels of distill_head_loss load them."""

import triton
import triton.language as tl


@triton.jit
def tile(source, first, rows, SIZE: tl.constexpr, WIDTH: tl.constexpr, BULK: tl.constexpr):
    """Rows `first` to first + SIZE of source [rows, WIDTH], zeros where there are none.

    source: a tensor descriptor where BULK, else a pointer: a chip without a copy engine works out each address of a
    descriptor in 64 bits, and keeps them in registers.
    """
    if BULK:
        values = source.load([first, 0])
    else:
        row = tl.arange(0, SIZE)
        there = (first + row >= 0) & (first + row < rows)
        source += tl.cast(first, tl.int64) * WIDTH
        values = tl.load(source + (row[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]), mask=there[:, None], other=0.0)
    return values
