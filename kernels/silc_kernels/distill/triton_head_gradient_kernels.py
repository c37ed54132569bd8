"""distill_head_loss in Triton: the gradient of a block of prototypes, without atomics.

Only jitted functions are here. Exponentials are in base 2: a scale is log2(e) / temperature.
"""

import triton
import triton.language as tl

from .triton_tiles import tile


@triton.jit
def adjust(
    student,
    weights,
    norms,
    pulled,
    adjusted,
    samples,
    students,
    teachers,
    inverse_temp,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    STUDENTS: tl.constexpr,
    TEACHERS: tl.constexpr,
    HEADROOM: tl.constexpr,
):
    """What weight_gradient takes, of BLOCK samples: pulled [T N, WIDTH] = -sum_s w_st x_s / largest, in its dtype, and
    adjusted [2, (S + T) N]: norms, their second half less log2 of what a row counts, as a part of the largest row, and
    less HEADROOM. Behind it, the factor of both: largest 2^-HEADROOM / tau_s.

    weights [S, T]; largest: of their sums over the teachers. STUDENTS, TEACHERS: powers of two from S and T up.
    """
    s, t = tl.arange(0, STUDENTS)[:, None], tl.arange(0, TEACHERS)[None, :]
    known = tl.load(weights + s * teachers + t, mask=(s < students) & (t < teachers), other=0.0)
    largest = tl.max(tl.sum(known, 1), 0)
    sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = sample < samples
    column = tl.arange(0, WIDTH)[None, :]
    count = tl.cast(students + teachers, tl.int64) * samples
    if tl.program_id(0) == 0:
        tl.store(adjusted + 2 * count, largest * tl.exp2(-HEADROOM) * inverse_temp)
    for row in range(students + teachers):
        at = tl.cast(row, tl.int64) * samples + sample
        counts = largest
        if row < students:
            counts = largest * 0.0
            for other in range(teachers):
                counts += tl.load(weights + row * teachers + other)
        total = tl.load(norms + count + at, mask=inside, other=0.0)
        tl.store(adjusted + at, tl.load(norms + at, mask=inside, other=0.0), mask=inside)
        tl.store(adjusted + count + at, total - tl.log2(counts / largest) - HEADROOM, mask=inside)
    for teacher in range(teachers):
        pull = tl.zeros([BLOCK, WIDTH], tl.float32)
        for row in range(students):
            at = (tl.cast(row, tl.int64) * samples + sample)[:, None] * WIDTH + column
            weight = tl.load(weights + row * teachers + teacher) / largest
            pull -= weight * tl.load(student + at, mask=inside[:, None], other=0.0).to(tl.float32)
        there = (tl.cast(teacher, tl.int64) * samples + sample)[:, None] * WIDTH + column
        tl.store(pulled + there, pull.to(pulled.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _gathered(sums, weight, shift, stream, COLUMNS: tl.constexpr, BULK: tl.constexpr):
    """sums [ROWS, WIDTH] and what a split of rows adds: probabilities of the prototypes times values.

    stream: features and values [rows, WIDTH], norm as in weight_gradient and how far apart its halves are, rows, rows a
    split, scale. Logits are features times weight [ROWS, WIDTH], less shift [ROWS]; where that is None, the values are
    the features.
    """
    features, values, norm, count, rows, per_split, scale = stream
    WIDTH: tl.constexpr = weight.shape[1]
    COMPUTE: tl.constexpr = weight.dtype
    start = tl.program_id(1) * per_split
    stop = tl.minimum(start + per_split, rows)
    for row in tl.range(start, stop, COLUMNS):
        x = tile(features, row, rows, COLUMNS, WIDTH, BULK).to(COMPUTE)
        product = tl.dot(weight, tl.trans(x), input_precision="ieee")
        at = row + tl.arange(0, COLUMNS)
        there = at < rows
        logits = product if shift is None else product - shift[:, None]
        peak = tl.load(norm + at, mask=there, other=0.0)
        depths = tl.minimum(logits - peak[None, :], 0.0) * scale
        # Beyond the last row: 2^-inf.
        total = tl.load(norm + count + at, mask=there, other=float("inf"))
        exponentials = tl.exp2(depths - total[None, :]).to(COMPUTE)
        value = x if shift is None else tile(values, row, rows, COLUMNS, WIDTH, BULK).to(COMPUTE)
        sums = tl.dot(exponentials, value, sums, input_precision="ieee")
    return sums


@triton.jit
def weight_gradient(
    student_weight,
    teacher_weight,
    student,
    teacher,
    pulled,
    center,
    adjusted,
    upstream,
    out,
    student_rows,
    teacher_rows,
    prototypes,
    width,
    student_split,
    teacher_split,
    student_scale,
    teacher_scale,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BULK: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Program (block of ROWS prototypes, split): factor (sum_s W_s P_s^T x_s - sum_t P_t^T pulled_t).

    A split takes student_split and teacher_split rows; out is [splits, K, width]. Logits are found again, COLUMNS
    samples at a time, summed in another order than before: one that now lies above the largest, by its rounding,
    counts as the largest, lest a small temperature make it infinite. adjusted, pulled: what `adjust` wrote. factor:
    upstream times the factor of `adjust`.
    """
    block, split = tl.program_id(0), tl.program_id(1)
    sums = tl.zeros([ROWS, WIDTH], tl.float32)
    weight = tile(student_weight, block * ROWS, prototypes, ROWS, WIDTH, BULK).to(COMPUTE)
    count = student_rows + teacher_rows
    stream = student, student, adjusted, count, student_rows, student_split, student_scale
    sums = _gathered(sums, weight, None, stream, COLUMNS, BULK)
    weight = tile(teacher_weight, block * ROWS, prototypes, ROWS, WIDTH, BULK).to(COMPUTE)
    prototype = tl.arange(0, ROWS)
    inside = block * ROWS + prototype < prototypes
    shift = tl.load(center + block * ROWS + prototype, mask=inside, other=0.0)
    stream = teacher, pulled, adjusted + student_rows, count, teacher_rows, teacher_split, teacher_scale
    sums = _gathered(sums, weight, shift, stream, COLUMNS, BULK)
    out += split.to(tl.int64) * prototypes * width
    factor = tl.load(upstream) * tl.load(adjusted + 2 * tl.cast(count, tl.int64))
    column = tl.arange(0, WIDTH)[None, :]
    there = (block * ROWS + prototype).to(tl.int64)[:, None] * width + column
    tl.store(out + there, (sums * factor).to(out.dtype.element_ty), mask=inside[:, None] & (column < width))
