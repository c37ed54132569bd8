"""Kernels of patch_embed: fold, project, and the gradients of weight and positions.

A patch has 3 channels of p lines of p pixels. In the products a line is padded to ROW pixels, a power of two, and lines
are taken LINES at a time, so that a tile of pixels is [patches, LINES x ROW] and never straddles a channel. The folded
weight carries zeros in the padding. The width that the kernels see is a multiple of 16 (triton_launch.py, `padded`).

Products are of (byte - 128), exact in every dtype, with the weight scaled channel by channel relative to the first;
the scale common to all is applied to the fp32 sum. With one std for all channels the weight is thus used as it is.

Bytes are converted in registers, and warpgroup products of sm_90 take them from there. Those registers must not change
before the products are waited for, which Triton 3.6 does not see to by itself: `_settled` does, once a turn. Programs
that make the columns of one tile of rows follow one another, so that its bytes come from memory once and then from the
L2 cache, where the weight (1.2 MB at p = 16, D = 768) stays as well.
"""

import triton
import triton.language as tl

# Not compiled for their values: sizes that happen to be 1, or multiples of 16, would make kernels that nobody has seen.
SIZES = ("crops", "tokens", "columns", "before")
STRIDES = ("stride_crop", "stride_channel", "stride_line")


@triton.jit(do_not_specialize=("width",))
def fold(
    weight,  # [D, 3, p, p]
    bias,  # [D]
    folded,  # [D padded, 3, LINES, ROW], in the dtype of the product
    folded_bias,  # [D padded], fp32
    width,  # D
    relative_1,
    relative_2,
    offset_0,
    offset_1,
    offset_2,
    PATCH: tl.constexpr,
    ROW: tl.constexpr,
    LINES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """relative_c W, padded; b + sum over pixels of offset_c W; 0 beyond the width. One program an output channel."""
    out = tl.program_id(0)
    known = out < width
    total = tl.load(bias + out, mask=known, other=0.0).to(tl.float32)
    for channel in tl.static_range(3):
        relative = 1.0 if channel == 0 else (relative_1 if channel == 1 else relative_2)
        offset = offset_0 if channel == 0 else (offset_1 if channel == 1 else offset_2)
        plane = out * 3 + channel
        for start in range(0, LINES * ROW, BLOCK):
            i = start + tl.arange(0, BLOCK)
            line, place = i // ROW, i % ROW
            inside = (line < PATCH) & (place < PATCH) & known
            w = tl.load(weight + plane * (PATCH * PATCH) + line * PATCH + place, mask=inside, other=0.0).to(tl.float32)
            scaled = (w * relative).to(folded.dtype.element_ty)
            tl.store(folded + plane * (LINES * ROW) + i, scaled, mask=i < LINES * ROW)
            total += tl.sum(w) * offset
    tl.store(folded_bias + out, total)


@triton.jit
def _as(x, DTYPE: tl.constexpr):
    """By way of fp32 where the dtype differs: direct casts of low precision go wrong under the interpreter."""
    if x.dtype != DTYPE:
        x = x.to(tl.float32).to(DTYPE)
    return x


@triton.jit
def _centered(pixels, RAW: tl.constexpr, COMPUTE: tl.constexpr):
    """Bytes less 128, or pixels normalised before as they are."""
    if RAW:
        # The float32 with these bits is 2 ** 23 + byte; conversions of integers have a narrow unit of their own.
        pixels = ((pixels.to(tl.uint32) | 0x4B000000).to(tl.float32, bitcast=True) - 8388736.0).to(COMPUTE)
    return _as(pixels, COMPUTE)


@triton.jit
def _patches(lines, DOWN: tl.constexpr, ACROSS: tl.constexpr, PATCH: tl.constexpr):
    """[1, LINES, DOWN, ACROSS PATCH] -> [DOWN ACROSS, LINES PATCH].

    The copy engine brings whole lines of pixels, not patches: long pieces of memory, and in shared memory a line of all
    patches before the next, so that threads that read one place of several patches meet different banks.
    """
    LINES: tl.constexpr = lines.shape[1]
    cut = tl.permute(tl.reshape(lines, (LINES, DOWN, ACROSS, PATCH)), (1, 2, 0, 3))
    return tl.reshape(cut, (DOWN * ACROSS, LINES * PATCH))


@triton.jit
def _settled(sums, always, WAIT: tl.constexpr):
    """`sums` as they are, and, if WAIT, no product in flight behind this.

    Triton leaves products in flight from one turn of a loop to the next as long as nothing but the next product uses
    their sums, and then converts the next turn's bytes into registers that these products may still read
    (https://github.com/triton-lang/triton/issues/9433). A use of the sums makes it wait for all of them.

    always: a condition that is true in every turn. Triton does not know that, LLVM does: only the wait is left.
    """
    if WAIT:
        sums = tl.where(always, sums, 0.0)
    return sums


@triton.jit
def _write(sums, scale, bias, positions, out, token, row, present, column, width, BLOCK_N: tl.constexpr):
    """sums * scale + bias + position, into rows of the packed sequence."""
    columns = column + tl.arange(0, BLOCK_N)
    known = columns < width
    keep = present[:, None] & known[None, :]
    shift = tl.load(positions + token[:, None] * width + columns[None, :], mask=keep, other=0.0).to(tl.float32)
    shift += tl.load(bias + columns, mask=known, other=0.0)[None, :]
    at = out + row.to(tl.int64)[:, None] * width + columns[None, :]
    tl.store(at, (sums * scale + shift).to(out.dtype.element_ty), mask=keep)


@triton.jit
def _write_all(
    sums, scale, bias, positions, out, token, row, present, column, width, BLOCK_N: tl.constexpr, PARTS: tl.constexpr
):
    """`_write` in PARTS (1, 2 or 4) pieces across: the positions of a wide tile do not fit beside its sums."""
    if PARTS == 1:
        _write(sums, scale, bias, positions, out, token, row, present, column, width, BLOCK_N)
    else:
        HALF: tl.constexpr = BLOCK_N // 2
        left, right = tl.split(tl.permute(tl.reshape(sums, (sums.shape[0], 2, HALF)), (0, 2, 1)))
        _write_all(left, scale, bias, positions, out, token, row, present, column, width, HALF, PARTS // 2)
        _write_all(right, scale, bias, positions, out, token, row, present, column + HALF, width, HALF, PARTS // 2)


@triton.jit(do_not_specialize=SIZES + STRIDES)
def project(
    pixels,  # [M, 3, H, W] at any strides: bytes if RAW, else normalised
    folded,  # [D, STEPS, LINES, ROW]
    bias,  # [D]
    positions,  # [tokens, D]
    out,  # [M (before + tokens), D]
    scale,
    crops,
    tokens,
    columns,  # of the grid of patches
    width,
    before,
    stride_crop,
    stride_channel,
    stride_line,
    stride_pixel,
    PATCH: tl.constexpr,
    ROW: tl.constexpr,
    LINES: tl.constexpr,
    STEPS: tl.constexpr,  # over all three channels
    RAW: tl.constexpr,
    UNIT: tl.constexpr,  # of the first three strides, in pixels: 16 where patches can be read in words, else 1
    COMPUTE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PARTS: tl.constexpr,
    WAIT: tl.constexpr,  # for a turn's products, at its end
):
    """Tokens of one resolution; any grid, patch and strides. A program makes BLOCK_M tokens, of one or more crops."""
    BLOCK_K: tl.constexpr = LINES * ROW
    blocks = tl.cdiv(width, BLOCK_N)
    number = (tl.program_id(0) // blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = (tl.program_id(0) % blocks) * BLOCK_N
    present = number < crops * tokens
    number = tl.minimum(number, crops * tokens - 1)
    crop, token = number // tokens, number % tokens
    stride_crop, stride_channel, stride_line = stride_crop * UNIT, stride_channel * UNIT, stride_line * UNIT
    corner = crop.to(tl.int64) * stride_crop
    corner += (token // columns) * (PATCH * stride_line) + (token % columns) * (PATCH * stride_pixel)
    k = tl.arange(0, BLOCK_K)
    line, place = k // ROW, k % ROW
    pixel_at = pixels + corner[:, None] + (line * stride_line + place * stride_pixel)[None, :]
    row_of_weight = tl.minimum(column + tl.arange(0, BLOCK_N), width - 1)
    weight_at = folded + row_of_weight[:, None] * (STEPS * BLOCK_K) + k[None, :]
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(STEPS):
        channel, top = step // (STEPS // 3), (step % (STEPS // 3)) * LINES
        at = pixel_at + (tl.cast(channel, tl.int64) * stride_channel + top * stride_line)
        if (PATCH == ROW) & (PATCH % LINES == 0):
            x = tl.load(at)
        else:
            x = tl.load(at, mask=((top + line < PATCH) & (place < PATCH))[None, :], other=0)
        w = tl.load(weight_at + step * BLOCK_K)
        sums = tl.dot(_centered(x, RAW, COMPUTE), tl.trans(_as(w, COMPUTE)), sums, input_precision="ieee")
        sums = _settled(sums, step < STEPS, WAIT)
    row = crop * (before + tokens) + before + token
    _write_all(sums, scale, bias, positions, out, token, row, present, column, width, BLOCK_N, PARTS)


@triton.jit(do_not_specialize=SIZES)
def project_bulk(
    pixels,  # descriptor of bytes [3 M, p, rows, W], tiles of [1, LINES, DOWN, ACROSS PATCH]
    folded,  # descriptor of [D, STEPS LINES PATCH], tiles of [BLOCK_N, LINES PATCH]
    bias,  # [D]
    positions,  # [tokens, D]
    out,  # [M (before + tokens), D]
    scale,
    tokens,
    columns,  # of the grid of patches
    width,
    before,
    PATCH: tl.constexpr,
    LINES: tl.constexpr,
    STEPS: tl.constexpr,
    COMPUTE: tl.constexpr,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PARTS: tl.constexpr,
    WAIT: tl.constexpr,  # for a turn's products, at its end
):
    """`project` for bytes in grids that tiles of DOWN x ACROSS patches fill: the copy engine cuts the patches."""
    BLOCK_M: tl.constexpr = DOWN * ACROSS
    BLOCK_K: tl.constexpr = LINES * PATCH
    blocks = tl.cdiv(width, BLOCK_N)
    first = (tl.program_id(0) // blocks) * BLOCK_M
    column = (tl.program_id(0) % blocks) * BLOCK_N
    crop, start = first // tokens, first % tokens
    down, across = start // columns, start % columns
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(STEPS):
        channel, top = step // (STEPS // 3), (step % (STEPS // 3)) * LINES
        x = _patches(pixels.load([crop * 3 + channel, top, down, across * PATCH]), DOWN, ACROSS, PATCH)
        w = folded.load([column, step * BLOCK_K])
        sums = tl.dot(_centered(x, True, COMPUTE), tl.trans(_as(w, COMPUTE)), sums, input_precision="ieee")
        sums = _settled(sums, step < STEPS, WAIT)
    token = start + tl.arange(0, BLOCK_M)
    row = crop * (before + tokens) + before + token
    present = token < tokens
    _write_all(sums, scale, bias, positions, out, token, row, present, column, width, BLOCK_N, PARTS)
