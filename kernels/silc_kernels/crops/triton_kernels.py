"""Kernels of crop_resize: the weights of every view, then lines across, then columns down.

The arithmetic is that of torch's CPU kernel for bytes: weights in float64, normalised, and rounded to 16 bits at a
precision that the largest of a view's direction decides; sums in 32 bits; bytes between the two directions.

A view's row of numbers (int64): see TABLE in triton_tables.py.
"""

import triton
import triton.language as tl

from .weights import MOST_PRECISION, WEIGHT_BITS

_OFFSET, _LINE, _HEIGHT, _WIDTH = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
_FLIP, _ACROSS, _DOWN, _BETWEEN = tl.constexpr(4), tl.constexpr(5), tl.constexpr(6), tl.constexpr(7)
_TILE, _COLUMNS = tl.constexpr(8), tl.constexpr(9)
_PRECISION, _BEYOND = tl.constexpr(MOST_PRECISION), tl.constexpr(1 << WEIGHT_BITS)


@triton.jit
def _taps(length, size):
    """As `weights.most_taps`."""
    return 2 * ((2 * tl.maximum(length, size) + size - 1) // size) + 1


@triton.jit
def _cubic(x):
    x = tl.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return tl.where(x < 1.0, near, tl.where(x < 2.0, far, 0.0))


@triton.jit
def _weight(tap, start, end, center, sharpness):
    """float64, not normalised."""
    place = start + tap
    return tl.where(place < end, _cubic((place.to(tl.float64) - center + 0.5) * sharpness), 0.0)


@triton.jit
def _span(place, length, scale, support):
    """(first pixel, end, center) of what some pixels of the result take."""
    center = scale * (place.to(tl.float64) + 0.5)
    start = tl.maximum((center - support + 0.5).to(tl.int32), 0)
    end = tl.minimum((center + support + 0.5).to(tl.int32), length)
    return start, end, center


@triton.jit
def weigh(
    table,  # int64 [n, _COLUMNS]
    starts,  # int32 [n, 2, size]
    shifts,  # int32 [n, 2]: the precision
    taps_out,  # int16: for each view and direction [taps, size]
    size,
    BLOCK: tl.constexpr,
):
    """Starts and weights of one view in one direction: 0 across, 1 down. One program each."""
    view, direction = tl.program_id(0) // 2, tl.program_id(0) % 2
    row = table + view * _COLUMNS
    length = tl.load(row + tl.where(direction == 0, _WIDTH, _HEIGHT)).to(tl.int32)
    out = taps_out + tl.load(row + tl.where(direction == 0, _ACROSS, _DOWN)) * size
    taps = _taps(length, size)
    scale = length.to(tl.float64) / tl.cast(size, tl.float64)  # a size of 1 is compiled in, as a plain number
    support = tl.maximum(scale, 1.0) * 2.0
    sharpness = tl.minimum(1.0 / scale, 1.0)
    largest = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, size, BLOCK):
        place = tl.minimum(first + tl.arange(0, BLOCK), size - 1)
        start, end, center = _span(place, length, scale, support)
        total, most = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
        for tap in range(taps):
            weight = _weight(tap, start, end, center, sharpness)
            total += weight
            most = tl.maximum(most, weight)
        largest = tl.maximum(largest, most / total)
    peak = tl.max(largest)
    shift = 0
    for bit in tl.static_range(1, _PRECISION + 1):
        fits = (peak * (1 << bit) + 0.5).to(tl.int32) < _BEYOND
        shift = tl.where((shift == bit - 1) & fits, bit, shift)
    tl.store(shifts + view * 2 + direction, shift)
    one = tl.cast(1 << shift, tl.float64)
    for first in range(0, size, BLOCK):
        mask = first + tl.arange(0, BLOCK) < size
        place = tl.minimum(first + tl.arange(0, BLOCK), size - 1)
        start, end, center = _span(place, length, scale, support)
        tl.store(starts + (view * 2 + direction) * size + place, start, mask=mask)
        total = tl.zeros((BLOCK,), tl.float64)
        for tap in range(taps):
            total += _weight(tap, start, end, center, sharpness)
        for tap in range(taps):
            scaled = _weight(tap, start, end, center, sharpness) / total * one
            rounded = (scaled + tl.where(scaled < 0.0, -0.5, 0.5)).to(tl.int32)
            tl.store(out + tap * size + place, rounded.to(tl.int16), mask=mask)


@triton.jit
def _byte(sums, shift):
    """Rounded, within a byte."""
    return tl.minimum(tl.maximum((sums + ((1 << shift) >> 1)) >> shift, 0), 255).to(tl.uint8)


@triton.jit(do_not_specialize_on_alignment=("views",))
def across(
    pixels,  # uint8 [bytes]
    table,  # int64 [n, _COLUMNS]
    views,  # int64 [tiles of all views]: whose they are
    starts,  # int32 [n, 2, size]
    shifts,  # int32 [n, 2]
    taps_in,  # int16
    between,  # uint8: for each view [height, 3, size]
    size,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Lines of a view's region made `size` pixels long. One program ROWS x COLUMNS pixels of a view."""
    view = tl.load(views + tl.program_id(0)).to(tl.int32)
    row = table + view * _COLUMNS
    tile = tl.program_id(0) - tl.load(row + _TILE).to(tl.int32)
    height, width = tl.load(row + _HEIGHT).to(tl.int32), tl.load(row + _WIDTH).to(tl.int32)
    blocks = tl.cdiv(size, COLUMNS)
    y = (tile // blocks) * ROWS + tl.arange(0, ROWS)
    x = (tile % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    within = x < size
    start = tl.load(starts + view * 2 * size + x, mask=within, other=0)
    line = tl.load(row + _LINE).to(tl.int32)
    at = pixels + tl.load(row + _OFFSET) + (tl.minimum(y, height - 1) * line)[:, None]
    weights = taps_in + tl.load(row + _ACROSS) * size + x
    flip = tl.load(row + _FLIP) != 0
    red = tl.zeros((ROWS, COLUMNS), tl.int32)
    green = tl.zeros((ROWS, COLUMNS), tl.int32)
    blue = tl.zeros((ROWS, COLUMNS), tl.int32)
    for tap in range(_taps(width, size)):
        weight = tl.load(weights + tap * size, mask=within, other=0).to(tl.int32)[None, :]
        column = tl.minimum(start + tap, width - 1)
        source = at + (3 * tl.where(flip, width - 1 - column, column))[None, :]
        red += tl.load(source).to(tl.int32) * weight
        green += tl.load(source + 1).to(tl.int32) * weight
        blue += tl.load(source + 2).to(tl.int32) * weight
    shift = tl.load(shifts + view * 2)
    out = between + tl.load(row + _BETWEEN) * (3 * size) + (y * (3 * size))[:, None] + x[None, :]
    mask = (y < height)[:, None] & within[None, :]
    tl.store(out, _byte(red, shift), mask=mask)
    tl.store(out + size, _byte(green, shift), mask=mask)
    tl.store(out + 2 * size, _byte(blue, shift), mask=mask)


@triton.jit
def down(
    between,  # uint8: for each view [height, 3, size]
    table,  # int64 [n, _COLUMNS]
    starts,  # int32 [n, 2, size]
    shifts,  # int32 [n, 2]
    taps_in,  # int16
    out,  # uint8 [n, 3, size, size]
    size,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Columns made `size` pixels long. One program ROWS x COLUMNS pixels of a view, all channels."""
    blocks = tl.cdiv(size, COLUMNS)
    tiles = tl.cdiv(size, ROWS) * blocks
    view, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    row = table + view * _COLUMNS
    height = tl.load(row + _HEIGHT).to(tl.int32)
    y = (tile // blocks) * ROWS + tl.arange(0, ROWS)
    x = (tile % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    within = y < size
    present = (x < size)[None, :]
    mask = within[:, None] & present
    start = tl.load(starts + (view * 2 + 1) * size + y, mask=within, other=0)
    weights = taps_in + tl.load(row + _DOWN) * size + y
    at = between + tl.load(row + _BETWEEN) * (3 * size) + x[None, :]
    red = tl.zeros((ROWS, COLUMNS), tl.int32)
    green = tl.zeros((ROWS, COLUMNS), tl.int32)
    blue = tl.zeros((ROWS, COLUMNS), tl.int32)
    for tap in range(_taps(height, size)):
        weight = tl.load(weights + tap * size, mask=within, other=0).to(tl.int32)[:, None]
        source = at + (tl.minimum(start + tap, height - 1) * (3 * size))[:, None]
        red += tl.load(source, mask=present, other=0).to(tl.int32) * weight
        green += tl.load(source + size, mask=present, other=0).to(tl.int32) * weight
        blue += tl.load(source + 2 * size, mask=present, other=0).to(tl.int32) * weight
    shift = tl.load(shifts + view * 2 + 1)
    target = out + view.to(tl.int64) * (3 * size * size) + y[:, None] * size + x[None, :]
    tl.store(target, _byte(red, shift), mask=mask)
    tl.store(target + size * size, _byte(green, shift), mask=mask)
    tl.store(target + 2 * size * size, _byte(blue, shift), mask=mask)
