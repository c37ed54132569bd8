"""Kernels of patch_embed's backward: partial sums over parts of the rows, added up in a fixed order.

The weight gradient is made pixels x width: bytes then are the operand that warpgroup products take from registers. As
the other operand they would have to be written back to shared memory. Either way the products of one tile are waited
for before the next tile's bytes are converted (`_settled`); copies of later tiles go on meanwhile.

The rows of a resolution, crops x tokens, are worked through in tiles, in the order in which they lie; a split is a
range of tiles. One loop, in which nothing but the product reads a tile of gradients. It was otherwise once: two loops,
and rows also added up in registers, for the positions, and weight gradients on an H200 were wrong. Triton 3.6 gave
those tiles one buffer too few for a product in flight, and nothing waited before the conversions: which of the two it
was is not known.

Programs of one split follow one another, all pixels of a patch and all columns, so that the rows of a split come from
memory once and then from the L2 cache.
"""

import triton
import triton.language as tl

from .triton_kernels import SIZES, STRIDES, _as, _centered, _patches, _settled


@triton.jit
def _write_partial(sums, partial, split, k, depth, column, width):
    """sums [BLOCK_K, BLOCK_D] into partial [splits, depth, D]."""
    columns = column + tl.arange(0, sums.shape[1])
    at = partial + (split * depth + k).to(tl.int64)[:, None] * width + columns[None, :]
    tl.store(at, sums, mask=(columns < width)[None, :])


@triton.jit(do_not_specialize=(*SIZES, "length", "first", *STRIDES))
def gradient(
    pixels,  # [M, 3, H, W] at any strides
    grad,  # [M (before + tokens), D]
    weight_partial,  # [splits, 3 BLOCKS LINES ROW, D] fp32
    crops,
    tokens,
    columns,  # of the grid of patches
    width,
    before,
    length,  # tiles of a split
    first,  # of the resolution's splits
    stride_crop,
    stride_channel,
    stride_line,
    stride_pixel,
    PATCH: tl.constexpr,
    ROW: tl.constexpr,
    LINES: tl.constexpr,
    BLOCKS: tl.constexpr,  # of LINES lines, a channel
    RAW: tl.constexpr,
    UNIT: tl.constexpr,  # of the first three strides, in pixels
    COMPUTE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WAIT: tl.constexpr,  # for a turn's products, at its end
):
    """Weight gradient of one resolution; any grid, patch and strides."""
    BLOCK_K: tl.constexpr = LINES * ROW
    blocks_d = tl.cdiv(width, BLOCK_D)
    part, column = tl.program_id(0) // blocks_d, (tl.program_id(0) % blocks_d) * BLOCK_D
    split = tl.program_id(1)
    k = tl.arange(0, BLOCK_K)
    line, place = (part % BLOCKS) * LINES + k // ROW, k % ROW
    stride_crop, stride_channel, stride_line = stride_crop * UNIT, stride_channel * UNIT, stride_line * UNIT
    pixels += tl.cast(part // BLOCKS, tl.int64) * stride_channel
    inner = line * stride_line + place * stride_pixel
    inside = ((line < PATCH) & (place < PATCH))[None, :]
    d = column + tl.arange(0, BLOCK_D)
    sums = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    begin = split * length
    end = tl.minimum(begin + length, tl.cdiv(crops * tokens, BLOCK_M))
    tl.assume(begin < end)  # else ptxas waits for every product: see contrastive/triton_kernels.py, _products
    for tile in range(begin, end):
        number = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        present = number < crops * tokens
        number = tl.minimum(number, crops * tokens - 1)
        crop, token = number // tokens, number % tokens
        corner = crop.to(tl.int64) * stride_crop
        corner += (token // columns) * (PATCH * stride_line) + (token % columns) * (PATCH * stride_pixel)
        if (PATCH == ROW) & (PATCH % LINES == 0):
            x = tl.load(pixels + corner[:, None] + inner[None, :])
        else:
            x = tl.load(pixels + corner[:, None] + inner[None, :], mask=inside, other=0)
        row = crop * (before + tokens) + before + token
        keep = present[:, None] & (d < width)[None, :]
        g = tl.load(grad + row.to(tl.int64)[:, None] * width + d[None, :], mask=keep, other=0.0)
        sums = tl.dot(tl.trans(_centered(x, RAW, COMPUTE)), _as(g, COMPUTE), sums, input_precision="ieee")
        sums = _settled(sums, tile < end, WAIT)
    _write_partial(sums, weight_partial, first + split, part * BLOCK_K + k, 3 * BLOCKS * BLOCK_K, column, width)


@triton.jit(do_not_specialize=(*SIZES, "length", "first"))
def gradient_bulk(
    pixels,  # descriptor of bytes [3 M, p, rows, W], tiles of [1, LINES, DOWN, ACROSS PATCH]
    grad,  # descriptor of [M (before + tokens), D], tiles of [DOWN ACROSS, BLOCK_D]
    weight_partial,  # [splits, 3 p p, D] fp32
    crops,
    tokens,
    columns,  # of the grid of patches
    width,
    before,
    length,  # tiles of a split
    first,  # of the resolution's splits
    PATCH: tl.constexpr,
    LINES: tl.constexpr,
    COMPUTE: tl.constexpr,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WAIT: tl.constexpr,
):
    """`gradient` for bytes in grids that tiles of DOWN x ACROSS patches of one crop fill."""
    TOKENS: tl.constexpr = DOWN * ACROSS
    BLOCK_K: tl.constexpr = LINES * PATCH
    BLOCKS: tl.constexpr = PATCH // LINES
    blocks_d = tl.cdiv(width, BLOCK_D)
    part, column = tl.program_id(0) // blocks_d, (tl.program_id(0) % blocks_d) * BLOCK_D
    split = tl.program_id(1)
    channel, top = part // BLOCKS, (part % BLOCKS) * LINES
    sums = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    in_crop = tokens // TOKENS
    begin = split * length
    end = tl.minimum(begin + length, in_crop * crops)
    tl.assume(begin < end)
    for tile in range(begin, end):
        crop, token = tile // in_crop, (tile % in_crop) * TOKENS
        down, across = token // columns, token % columns
        x = _patches(pixels.load([crop * 3 + channel, top, down, across * PATCH]), DOWN, ACROSS, PATCH)
        g = grad.load([crop * (before + tokens) + before + token, column])
        sums = tl.dot(tl.trans(_centered(x, True, COMPUTE)), _as(g, COMPUTE), sums, input_precision="ieee")
        sums = _settled(sums, tile < end, WAIT)
    k = part * BLOCK_K + tl.arange(0, BLOCK_K)
    _write_partial(sums, weight_partial, first + split, k, 3 * PATCH * PATCH, column, width)


@triton.jit
def _total(rows, begin, end, d, width, BLOCK_T: tl.constexpr):
    """Sum over some rows [.., D], columns d."""
    total = tl.zeros((d.shape[0],), tl.float32)
    for start in range(begin, end, BLOCK_T):
        row = start + tl.arange(0, BLOCK_T)
        at = rows + row.to(tl.int64)[:, None] * width + d[None, :]
        total += tl.sum(tl.load(at, mask=(row < end)[:, None] & (d < width)[None, :], other=0.0), 0)
    return total


@triton.jit(do_not_specialize=("raw_splits", "splits", "raw_tokens", "tokens", "prefixes", "before", "width"))
def unfold(
    partial,  # [splits, 3, LINES, ROW, D padded] fp32, those of bytes first
    sums,  # [tokens + prefixes before, D] fp32: gradients of all positions, bytes' first, and of each prefix
    d_weight,  # [D, 3, p, p] fp32
    d_bias,  # [D] fp32
    d_prefix,  # [before, D] fp32
    raw_splits,
    splits,
    raw_tokens,
    tokens,
    prefixes,  # resolutions, each with one
    before,
    width,  # D
    pitch,  # D padded
    gain_0,
    gain_1,
    gain_2,
    offset_0,
    offset_1,
    offset_2,
    PATCH: tl.constexpr,
    ROW: tl.constexpr,
    LINES: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Sum of the partials, bytes' by way of the folding: gain_c dW' + offset_c db'; and the sums over all tokens."""
    blocks = tl.cdiv(LINES * ROW, BLOCK_K)
    channel = tl.program_id(0) // blocks
    k = (tl.program_id(0) % blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    known = d < width
    raw_bias = _total(sums, 0, raw_tokens, d, width, BLOCK_T)
    if tl.program_id(0) == 0:
        bias = raw_bias + _total(sums, raw_tokens, tokens, d, width, BLOCK_T)
        tl.store(d_bias + d, bias, mask=known)
        for token in range(before):
            prefix = tl.zeros((BLOCK_D,), tl.float32)
            for each in range(prefixes):
                at = sums + (tokens + each * before + token).to(tl.int64) * width + d
                prefix += tl.load(at, mask=known, other=0.0)
            tl.store(d_prefix + token * width + d, prefix, mask=known)
    line, place = k // ROW, k % ROW
    keep = known[:, None] & ((line < PATCH) & (place < PATCH))[None, :]
    at = partial + (channel * (LINES * ROW) + k)[None, :] * pitch + d[:, None]
    raw = tl.zeros((BLOCK_D, BLOCK_K), tl.float32)
    for split in range(raw_splits):
        raw += tl.load(at + split * (3 * LINES * ROW * pitch), mask=keep, other=0.0)
    plain = tl.zeros((BLOCK_D, BLOCK_K), tl.float32)
    for split in range(raw_splits, splits):
        plain += tl.load(at + split * (3 * LINES * ROW * pitch), mask=keep, other=0.0)
    gain = tl.where(channel == 0, gain_0, tl.where(channel == 1, gain_1, gain_2))
    offset = tl.where(channel == 0, offset_0, tl.where(channel == 1, offset_1, offset_2))
    to = d_weight + (d * 3 + channel)[:, None] * (PATCH * PATCH) + (line * PATCH + place)[None, :]
    tl.store(to, plain + raw * gain + offset * raw_bias[:, None], mask=keep)
