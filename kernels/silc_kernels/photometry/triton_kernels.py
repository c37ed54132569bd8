"""Kernels of the photometric list: partial sums of the grey, the steps that stay within a pixel, and a blur across and
down.

A view that is blurred passes through scratch memory between these steps, in fixed point of 8 bits after the point: half
the bytes of float32, and a rounding of 1/512 of a level, 32 times finer than float16 is from level 128 on.
"""

import triton
import triton.language as tl

from .parameters import MOST_RADIUS

# Added to a float32 x in [0, 2 ** 23): its lowest bits are then x as a whole number, halves rounded to even. As bits.
WHOLE = 8388608.0
SCRATCH_ONE = 256.0  # a level, in scratch memory
_RADIUS = tl.constexpr(MOST_RADIUS)
_WHOLE = tl.constexpr(WHOLE)
_SCRATCH_ONE = tl.constexpr(SCRATCH_ONE)
# Indices in a row of parameters.
_CONTRAST, _ORDER, _GREY = tl.constexpr(1), tl.constexpr(4), tl.constexpr(5)
_SIGMA, _SOLARIZE, _WIDTH = tl.constexpr(6), tl.constexpr(7), tl.constexpr(8)


@triton.jit
def _grey(red, green, blue):
    return 0.2989 * red + 0.587 * green + 0.114 * blue


@triton.jit
def _clamped(x):
    return tl.minimum(tl.maximum(x, 0.0), 255.0)


@triton.jit
def _rounded(x):
    """float32 in [0, 2 ** 23) -> int32, halves to even."""
    return (x + _WHOLE).to(tl.int32, bitcast=True) & 0x7FFFFF


@triton.jit
def _turned(red, green, blue, turns):
    """The hue of HSV turned. Each channel has all of the span within a sixth of a turn of its hue, none beyond a
    third."""
    top = tl.maximum(red, tl.maximum(green, blue))
    low = tl.minimum(red, tl.minimum(green, blue))
    span = top - low
    each = 1.0 / tl.where(span == 0.0, 1.0, span)
    sixths = tl.where(top == green, 2.0 + (blue - red) * each, 4.0 + (red - green) * each)
    sixths = tl.where(top == red, (green - blue) * each, sixths) + 6.0 * turns
    sixths -= 6.0 * tl.floor(sixths * (1.0 / 6.0))
    share_red = tl.abs(sixths - 3.0) - 1.0
    share_green = 2.0 - tl.abs(sixths - 2.0)
    share_blue = 2.0 - tl.abs(sixths - 4.0)
    red = low + span * tl.minimum(tl.maximum(share_red, 0.0), 1.0)
    green = low + span * tl.minimum(tl.maximum(share_green, 0.0), 1.0)
    blue = low + span * tl.minimum(tl.maximum(share_blue, 0.0), 1.0)
    return red, green, blue


@triton.jit
def _steps(order):
    """The four steps of an order, two bits each, the first lowest: a permutation by its place in lexical order."""
    first = order // 6
    second = (order % 6) // 2
    second += (second >= first).to(tl.int32)
    least = tl.where((first == 0) | (second == 0), tl.where((first == 1) | (second == 1), 2, 1), 0)
    other = 6 - first - second - least
    swapped = order % 2 == 1
    third, fourth = tl.where(swapped, other, least), tl.where(swapped, least, other)
    return first | (second << 2) | (third << 4) | (fourth << 6)


@triton.jit
def _step(red, green, blue, step, row, mean):
    """One step of the jitter."""
    factor = tl.load(row + step)
    if step == 3:
        red, green, blue = _turned(red, green, blue, factor)
    else:
        # Towards black, the mean of the grey, or the pixel's grey.
        other = tl.where(step == 2, _grey(red, green, blue), tl.where(step == 1, mean, 0.0)) * (1.0 - factor)
        red = _clamped(red * factor + other)
        green = _clamped(green * factor + other)
        blue = _clamped(blue * factor + other)
    return red, green, blue


@triton.jit
def _loaded(views, view, at, mask, pixels):
    """Three channels of some pixels, float32."""
    start = views + view.to(tl.int64) * (3 * pixels) + at
    red = tl.load(start, mask=mask, other=0).to(tl.float32)
    green = tl.load(start + pixels, mask=mask, other=0).to(tl.float32)
    blue = tl.load(start + 2 * pixels, mask=mask, other=0).to(tl.float32)
    return red, green, blue


@triton.jit
def greys(
    views,  # uint8 [n, 3, pixels]
    parameters,  # fp32 [n, 8]
    partial,  # fp32 [n, tiles]
    pixels,
    tiles,
    BLOCK: tl.constexpr,
):
    """The sum of the grey of a tile of pixels, as it is when the contrast has its turn. One program a tile."""
    view, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    row = parameters + view * _WIDTH
    order = tl.load(row + _ORDER).to(tl.int32)
    if order >= 0:
        steps = _steps(order)
        at = tile * BLOCK + tl.arange(0, BLOCK)
        mask = at < pixels
        red, green, blue = _loaded(views, view, at, mask, pixels)
        before = steps >= 0  # no contrast yet: always so at first
        for turn in tl.static_range(3):
            step = (steps >> (2 * turn)) & 3
            before = before & (step != _CONTRAST)
            if before:
                red, green, blue = _step(red, green, blue, step, row, 0.0)
        tl.store(partial + view * tiles + tile, tl.sum(tl.where(mask, _grey(red, green, blue), 0.0)))


@triton.jit
def points(
    views,  # uint8 [n, 3, pixels]: read, and written where a view is not blurred
    parameters,  # fp32 [n, 8]
    partial,  # fp32 [n, partials]
    scratch,  # uint16 [n, 3, pixels]: written where it is
    pixels,
    tiles,
    partials,  # of the grey, a view
    share,  # 1 / pixels
    BLOCK: tl.constexpr,
    PARTIALS: tl.constexpr,
):
    """Jitter and grey; where no blur follows, solarization and rounding too. One program a tile."""
    view, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    row = parameters + view * _WIDTH
    order = tl.load(row + _ORDER).to(tl.int32)
    at = tile * BLOCK + tl.arange(0, BLOCK)
    mask = at < pixels
    red, green, blue = _loaded(views, view, at, mask, pixels)
    if order >= 0:
        sums = tl.zeros((PARTIALS,), tl.float32)
        for start in range(0, partials, PARTIALS):
            each = start + tl.arange(0, PARTIALS)
            sums += tl.load(partial + view * partials + each, mask=each < partials, other=0.0)
        mean = tl.sum(sums) * share
        steps = _steps(order)
        for turn in range(4):
            red, green, blue = _step(red, green, blue, (steps >> (2 * turn)) & 3, row, mean)
    if tl.load(row + _GREY) > 0.0:
        red = _grey(red, green, blue)
        green = red
        blue = red
    offset = view.to(tl.int64) * (3 * pixels) + at
    if tl.load(row + _SIGMA) > 0.0:
        tl.store(scratch + offset, _rounded(red * _SCRATCH_ONE).to(tl.uint16), mask=mask)
        tl.store(scratch + offset + pixels, _rounded(green * _SCRATCH_ONE).to(tl.uint16), mask=mask)
        tl.store(scratch + offset + 2 * pixels, _rounded(blue * _SCRATCH_ONE).to(tl.uint16), mask=mask)
    else:
        solarize = tl.load(row + _SOLARIZE)
        _finish(views + offset, red, solarize, mask)
        _finish(views + offset + pixels, green, solarize, mask)
        _finish(views + offset + 2 * pixels, blue, solarize, mask)


@triton.jit
def _finish(out, x, solarize, mask):
    """Solarization, rounding, bytes."""
    x = tl.where(x >= tl.where(solarize > 0.0, 128.0, 256.0), 255.0 - x, x)
    tl.store(out, _rounded(x).to(tl.uint8), mask=mask)


@triton.jit
def _reach(sigma):
    """max(1, round(3 sigma)), halves to even; wide, as the product has more digits than sigma."""
    return tl.maximum((sigma.to(tl.float64) * 3.0 + 6755399441055744.0 - 6755399441055744.0).to(tl.int32), 1)


@triton.jit
def _blurred(lines, place, length, stride, sigma, mask):
    """Weighted sum over the taps, reflected at the ends (of lines of more than _RADIUS pixels). float32, in scratch
    units, [ROWS, COLUMNS].

    lines: the pixel that each line begins with; place: the pixels' own in it. One has ROWS, the other COLUMNS.
    """
    reach = _reach(sigma)
    sharpness = -0.7213475204444817 / (sigma * sigma)  # of the exponents, for base 2
    sums = tl.load(lines + place * stride, mask=mask, other=0).to(tl.float32)
    total = 1.0
    for away in tl.static_range(1, _RADIUS + 1):
        weight = tl.where(away <= reach, tl.exp2(sharpness * (away * away)), 0.0)
        taken = mask & (away <= reach)
        before = tl.abs(place - away)
        after = length - 1 - tl.abs(length - 1 - place - away)
        pair = tl.load(lines + before * stride, mask=taken, other=0).to(tl.float32)
        pair += tl.load(lines + after * stride, mask=taken, other=0).to(tl.float32)
        sums += weight * pair
        total += 2.0 * weight
    return sums / total


@triton.jit
def blur_across(
    scratch,  # uint16 [n, 3, H, W]
    parameters,  # fp32 [n, 8]
    out,  # uint16 [n, 3, H, W]
    height,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Along the lines of those views that are blurred. One program ROWS x COLUMNS pixels of a channel."""
    plane, y, x, mask = _tile(height, width, ROWS, COLUMNS)
    sigma = tl.load(parameters + (plane // 3) * _WIDTH + _SIGMA)
    if sigma > 0.0:
        lines = plane.to(tl.int64) * (height * width) + y * width
        blurred = _blurred(scratch + lines, x, width, 1, sigma, mask)
        tl.store(out + lines + x, _rounded(blurred).to(tl.uint16), mask=mask)


@triton.jit
def blur_down(
    scratch,  # uint16 [n, 3, H, W]
    parameters,  # fp32 [n, 8]
    views,  # uint8 [n, 3, H, W]
    height,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Down the columns of those views that are blurred; then solarization and rounding. One program ROWS x COLUMNS
    pixels of a channel.
    """
    plane, y, x, mask = _tile(height, width, ROWS, COLUMNS)
    row = parameters + (plane // 3) * _WIDTH
    sigma = tl.load(row + _SIGMA)
    if sigma > 0.0:
        lines = plane.to(tl.int64) * (height * width) + x
        blurred = _blurred(scratch + lines, y, height, width, sigma, mask)
        _finish(views + lines + y * width, blurred * (1.0 / _SCRATCH_ONE), tl.load(row + _SOLARIZE), mask)


@triton.jit
def _tile(height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """(channel among those of all views, rows [ROWS, 1], columns [1, COLUMNS], mask) of a program."""
    across = tl.cdiv(width, COLUMNS)
    tiles = across * tl.cdiv(height, ROWS)
    plane, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    y = (tile // across) * ROWS + tl.arange(0, ROWS)[:, None]
    x = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return plane, y, x, (y < height) & (x < width)
