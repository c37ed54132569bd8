"""distill_head_loss in Triton: attention over the prototypes, and the gradient of a block of prototypes.

Only jitted functions are here. Logits exist a tile at a time. Exponentials are in base 2: a scale is log2(e) /
temperature. A row's maximum is kept as a logit, apart from its sum: a log-sum-exp would take digits from the
exponentials where logits are large. Exponentials reach 2^HEADROOM, which keeps small ones among the normal numbers of
float16.

OVERLAP, in attend: the exponentials of one tile of logits run while tensor cores multiply, the tile before by its
values, or the next one by its keys. A pass then finds the logits of the tile after its own, and starts a tile early,
with logits of -inf. What serves as key and as value is loaded twice: the value is needed a pass later than the key.
"""

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)
# Under every logit, and finite: a row that saw none must not subtract infinities.
LOWEST = tl.constexpr(-3.0e38)


@triton.jit
def _tile(source, first, rows, SIZE: tl.constexpr, WIDTH: tl.constexpr, BULK: tl.constexpr):
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


@triton.jit
def _logits(
    query,
    key,
    center,
    column,
    prototypes,
    CENTERED: tl.constexpr,
    EVEN: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Of one tile of prototypes, less their center where CENTERED; -inf beyond the last one, which EVEN excludes."""
    logits = tl.dot(query, tl.trans(key), input_precision="ieee")
    at = column + tl.arange(0, COLUMNS)
    if CENTERED:
        logits -= tl.load(center + at, mask=at < prototypes, other=0.0)[None, :]
    if not EVEN:
        logits = tl.where((at < prototypes)[None, :], logits, -float("inf"))
    return logits


@triton.jit
def attend(
    queries,
    keys,
    values,
    center,
    peaks,
    totals,
    sums,
    rows,
    prototypes,
    per_split,
    scale,
    CENTERED: tl.constexpr,
    EVEN: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    OVERLAP: tl.constexpr,
    BULK: tl.constexpr,
    COMPUTE: tl.constexpr,
    HEADROOM: tl.constexpr,
):
    """Program (block of rows, split): softmax((keys q - c) scale) values over a stretch of prototypes, not normalised.

    Written: peaks [splits, rows], the largest logits; totals [splits, rows] and sums [splits, rows, WIDTH] of
    2^(HEADROOM + (logit - peak) scale), once alone and once times the values. CENTERED: the teacher, whose keys are not
    its values; else the student: values are the keys. EVEN: prototypes is a multiple of COLUMNS. OVERLAP: as above.
    """
    block, split = tl.program_id(0), tl.program_id(1)
    query = _tile(queries, block * ROWS, rows, ROWS, WIDTH, BULK).to(COMPUTE)
    start = split * per_split
    stop = tl.minimum(start + per_split, prototypes)
    peak = tl.full([ROWS], LOWEST, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, WIDTH], tl.float32)
    if OVERLAP:
        logits = tl.full([ROWS, COLUMNS], -float("inf"), tl.float32)
        start -= COLUMNS
    for column in tl.range(start, stop, COLUMNS):
        if not OVERLAP:
            key = _tile(keys, column, prototypes, COLUMNS, WIDTH, BULK).to(COMPUTE)
            logits = _logits(query, key, center, column, prototypes, CENTERED, EVEN, COLUMNS)
        higher = tl.maximum(peak, tl.max(logits, 1))
        exponentials = tl.exp2((logits - higher[:, None]) * scale + HEADROOM)
        shrink = tl.exp2((peak - higher) * scale)
        total = total * shrink + tl.sum(exponentials, 1)
        if OVERLAP:
            key = _tile(keys, column + COLUMNS, prototypes, COLUMNS, WIDTH, BULK).to(COMPUTE)
            # Masked always: where a pass begins by reading a product, ptxas has it wait for all that are in flight.
            logits = _logits(query, key, center, column + COLUMNS, prototypes, CENTERED, False, COLUMNS)
        if OVERLAP or CENTERED:
            value = _tile(values, column, prototypes, COLUMNS, WIDTH, BULK).to(COMPUTE)
        else:
            value = key
        out = tl.dot(exponentials.to(COMPUTE), value, out * shrink[:, None], input_precision="ieee")
        peak = higher
    row = tl.arange(0, ROWS)
    inside = block * ROWS + row < rows
    base = split.to(tl.int64) * rows + block * ROWS
    tl.store(peaks + base + row, peak, mask=inside)
    tl.store(totals + base + row, total, mask=inside)
    # Offsets within the tile fit 32 bits: fewer registers while the sums are in others.
    tl.store(sums + base * WIDTH + row[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :], out, mask=inside[:, None])


@triton.jit
def _merged(peaks, totals, sums, norm, row, rows, splits, scale, WIDTH: tl.constexpr, HEADROOM: tl.constexpr):
    """Splits of `row` [B] as one: peak [B] and log2 of the sum [B], also to norm [2, rows]; attended [B, WIDTH]."""
    inside = row < rows
    peak = tl.full(row.shape, -float("inf"), tl.float32)
    for split in range(splits):
        at = tl.cast(split, tl.int64) * rows + row
        peak = tl.maximum(peak, tl.load(peaks + at, mask=inside, other=0.0))
    total = tl.zeros(row.shape, tl.float32)
    out = tl.zeros([row.shape[0], WIDTH], tl.float32)
    for split in tl.range(splits, num_stages=3):
        at = tl.cast(split, tl.int64) * rows + row
        shrink = tl.exp2((tl.load(peaks + at, mask=inside, other=0.0) - peak) * scale)
        total += tl.load(totals + at, mask=inside, other=1.0) * shrink
        there = at[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
        out += tl.load(sums + there, mask=inside[:, None], other=0.0) * shrink[:, None]
    log_total = tl.log2(total) - HEADROOM
    tl.store(norm + row, peak, mask=inside)
    tl.store(norm + rows + row, log_total, mask=inside)
    return peak, log_total, out / total[:, None]


@triton.jit
def finish_teacher(
    peaks,
    totals,
    sums,
    attended,
    norm,
    rows,
    splits,
    scale,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HEADROOM: tl.constexpr,
):
    """y_t [T N, WIDTH], and norm [2, T N]: the largest logit, log2 of the sum of exponentials of what lies below it."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    _, _, out = _merged(peaks, totals, sums, norm, row, rows, splits, scale, WIDTH, HEADROOM)
    there = row.to(tl.int64)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(attended + there, out, mask=(row < rows)[:, None])


@triton.jit
def finish_student(
    peaks,
    totals,
    sums,
    student,
    attended,
    weights,
    d_student,
    norm,
    loss,
    rows,
    samples,
    teachers,
    splits,
    scale,
    inverse_temp,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HEADROOM: tl.constexpr,
):
    """Of each row: d_student = (W_s O_s - pull) / tau_s and loss = W_s LSE_s - x . pull / tau_s, pull = sum_t w_st y_t.

    norm [2, S N]: as the teacher's.
    """
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    peak, log_total, out = _merged(peaks, totals, sums, norm, row, rows, splits, scale, WIDTH, HEADROOM)
    column = tl.arange(0, WIDTH)[None, :]
    pull = tl.zeros([BLOCK, WIDTH], tl.float32)
    mass = tl.zeros([BLOCK], tl.float32)
    for t in range(teachers):
        weight = tl.load(weights + row // samples * teachers + t, mask=inside, other=0.0)
        there = (row % samples + t * samples).to(tl.int64)[:, None] * WIDTH + column
        pull += weight[:, None] * tl.load(attended + there, mask=inside[:, None], other=0.0)
        mass += weight
    there = row.to(tl.int64)[:, None] * WIDTH + column
    x = tl.load(student + there, mask=inside[:, None], other=0.0).to(tl.float32)
    tl.store(d_student + there, (mass[:, None] * out - pull) * inverse_temp, mask=inside[:, None])
    lse = peak * inverse_temp + log_total * LN2
    tl.store(loss + row, mass * lse - tl.sum(x * pull, 1) * inverse_temp, mask=inside)


@triton.jit
def _gathered(sums, weight, shift, stream, COLUMNS: tl.constexpr, BULK: tl.constexpr):
    """sums [ROWS, WIDTH] and what a split of rows adds: probabilities of the prototypes times values.

    stream: features and values [rows, WIDTH], norm [2, rows] as in weight_gradient, rows, rows a split, scale. Logits
    are features times weight [ROWS, WIDTH], less shift [ROWS]; where that is None, the values are the features.
    """
    features, values, norm, rows, per_split, scale = stream
    WIDTH: tl.constexpr = weight.shape[1]
    COMPUTE: tl.constexpr = weight.dtype
    start = tl.program_id(1) * per_split
    stop = tl.minimum(start + per_split, rows)
    for row in tl.range(start, stop, COLUMNS):
        x = _tile(features, row, rows, COLUMNS, WIDTH, BULK).to(COMPUTE)
        product = tl.dot(weight, tl.trans(x), input_precision="ieee")
        at = row + tl.arange(0, COLUMNS)
        there = at < rows
        logits = product if shift is None else product - shift[:, None]
        peak = tl.load(norm + at, mask=there, other=0.0)
        depths = tl.minimum(logits - peak[None, :], 0.0) * scale
        # Beyond the last row: 2^-inf.
        total = tl.load(norm + rows + at, mask=there, other=float("inf"))
        exponentials = tl.exp2(depths - total[None, :]).to(COMPUTE)
        value = x if shift is None else _tile(values, row, rows, COLUMNS, WIDTH, BULK).to(COMPUTE)
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
    student_norm,
    teacher_norm,
    factor,
    out,
    student_rows,
    teacher_rows,
    prototypes,
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

    A split takes student_split and teacher_split rows; out is [splits, K, WIDTH]. Logits are found again, COLUMNS
    samples at a time, summed in another order than before: one that now lies above the largest, by its rounding,
    counts as the largest, lest a small temperature make it infinite. A norm [2, rows] holds the largest logits, and
    log2 of the sum of exponentials less log2 of what a row counts, and less HEADROOM. pulled [T N, WIDTH] holds
    -sum_s w_st x_s.
    """
    block, split = tl.program_id(0), tl.program_id(1)
    sums = tl.zeros([ROWS, WIDTH], tl.float32)
    weight = _tile(student_weight, block * ROWS, prototypes, ROWS, WIDTH, BULK).to(COMPUTE)
    stream = student, student, student_norm, student_rows, student_split, student_scale
    sums = _gathered(sums, weight, None, stream, COLUMNS, BULK)
    weight = _tile(teacher_weight, block * ROWS, prototypes, ROWS, WIDTH, BULK).to(COMPUTE)
    prototype = tl.arange(0, ROWS)
    inside = block * ROWS + prototype < prototypes
    shift = tl.load(center + block * ROWS + prototype, mask=inside, other=0.0)
    stream = teacher, pulled, teacher_norm, teacher_rows, teacher_split, teacher_scale
    sums = _gathered(sums, weight, shift, stream, COLUMNS, BULK)
    out += split.to(tl.int64) * prototypes * WIDTH
    there = (block * ROWS + prototype).to(tl.int64)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(out + there, (sums * tl.load(factor)).to(out.dtype.element_ty), mask=inside[:, None])
