"""distill_head_loss in Triton: attention over the prototypes, and the gradient of a block of prototypes.

Only jitted functions are here. Logits exist a tile at a time and in base 2: a scale is log2(e) / temperature. Features
and prototypes come by tensor descriptors, [.., WIDTH], which give zeros beyond the last row.
"""

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)
# Exponentials reach 2^15 instead of 1, so that those of a flat row over 65536 prototypes are normal float16 numbers.
HEADROOM = tl.constexpr(15.0)


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
    COMPUTE: tl.constexpr,
):
    """Program (block of rows, split): softmax((keys q - c) scale) values over a stretch of prototypes, not normalised.

    Written: peaks, totals [splits, rows], with LSE = peak + log2(total); sums [splits, rows, WIDTH]. CENTERED: the
    teacher, whose keys are not its values; else the student: values are the keys, loaded once.
    EVEN: prototypes is a multiple of COLUMNS.
    """
    block, split = tl.program_id(0), tl.program_id(1)
    query = queries.load([block * ROWS, 0]).to(COMPUTE)
    start = split * per_split
    stop = tl.minimum(start + per_split, prototypes)
    peak = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, WIDTH], tl.float32)
    for column in tl.range(start, stop, COLUMNS):
        key = keys.load([column, 0]).to(COMPUTE)
        logits = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        at = column + tl.arange(0, COLUMNS)
        if CENTERED:
            logits -= (tl.load(center + at, mask=at < prototypes, other=0.0) * scale)[None, :]
        if not EVEN:
            logits = tl.where((at < prototypes)[None, :], logits, -float("inf"))
        higher = tl.maximum(peak, tl.max(logits, 1) - HEADROOM)
        exponentials = tl.exp2(logits - higher[:, None])
        shrink = tl.exp2(peak - higher)
        total = total * shrink + tl.sum(exponentials, 1)
        out *= shrink[:, None]
        if CENTERED:
            value = values.load([column, 0]).to(COMPUTE)
        else:
            value = key
        out = tl.dot(exponentials.to(COMPUTE), value, out, input_precision="ieee")
        peak = higher
    row = block * ROWS + tl.arange(0, ROWS)
    at = split.to(tl.int64) * rows + row
    tl.store(peaks + at, peak, mask=row < rows)
    tl.store(totals + at, total, mask=row < rows)
    tl.store(sums + at[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :], out, mask=(row < rows)[:, None])


@triton.jit
def _merged(peaks, totals, sums, row, rows, splits, WIDTH: tl.constexpr):
    """Splits of `row` [B] as one: (attended [B, WIDTH], log-sum-exp [B] in base 2)."""
    inside = row < rows
    peak = tl.full(row.shape, -float("inf"), tl.float32)
    for split in range(splits):
        at = tl.cast(split, tl.int64) * rows + row
        peak = tl.maximum(peak, tl.load(peaks + at, mask=inside, other=0.0))
    total = tl.zeros(row.shape, tl.float32)
    out = tl.zeros([row.shape[0], WIDTH], tl.float32)
    for split in range(splits):
        at = tl.cast(split, tl.int64) * rows + row
        shrink = tl.exp2(tl.load(peaks + at, mask=inside, other=0.0) - peak)
        total += tl.load(totals + at, mask=inside, other=1.0) * shrink
        there = at[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
        out += tl.load(sums + there, mask=inside[:, None], other=0.0) * shrink[:, None]
    return out / total[:, None], peak + tl.log2(total)


@triton.jit
def finish_teacher(
    peaks, totals, sums, attended, lse, rows, splits, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    """y_t [T N, WIDTH] and the teacher's log-sum-exps [T N]."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    out, total = _merged(peaks, totals, sums, row, rows, splits, WIDTH)
    tl.store(lse + row, total, mask=inside)
    there = row.to(tl.int64)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(attended + there, out, mask=inside[:, None])


@triton.jit
def finish_student(
    peaks,
    totals,
    sums,
    student,
    attended,
    weights,
    d_student,
    lse,
    loss,
    rows,
    samples,
    teachers,
    splits,
    inverse_temp,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of each row: d_student = (W_s O_s - pull) / tau_s and loss = W_s LSE_s - x . pull / tau_s, pull = sum_t w_st y_t."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    out, total = _merged(peaks, totals, sums, row, rows, splits, WIDTH)
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
    tl.store(lse + row, total, mask=inside)
    tl.store(loss + row, mass * total * LN2 - tl.sum(x * pull, 1) * inverse_temp, mask=inside)


@triton.jit
def weight_gradient(
    student_weight,
    teacher_weight,
    student,
    teacher,
    pulled,
    center,
    student_offset,
    teacher_offset,
    factor,
    out,
    student_rows,
    teacher_rows,
    prototypes,
    student_scale,
    teacher_scale,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """One block of ROWS prototypes: factor (sum_s W_s P_s^T x_s - sum_t P_t^T pulled_t), out [K, WIDTH].

    Logits are found again, COLUMNS samples at a time. An offset [rows] is a log-sum-exp in base 2 less the logarithm
    of what its row counts; pulled [T N, WIDTH] holds -sum_s w_st x_s.
    """
    block = tl.program_id(0)
    weight = student_weight.load([block * ROWS, 0]).to(COMPUTE)
    sums = tl.zeros([ROWS, WIDTH], tl.float32)
    for row in tl.range(0, student_rows, COLUMNS):
        x = student.load([row, 0]).to(COMPUTE)
        at = row + tl.arange(0, COLUMNS)
        # Beyond the last row: 2^-inf.
        offset = tl.load(student_offset + at, mask=at < student_rows, other=float("inf"))
        logits = tl.dot(weight, tl.trans(x), input_precision="ieee") * student_scale
        sums = tl.dot(tl.exp2(logits - offset[None, :]).to(COMPUTE), x, sums, input_precision="ieee")
    weight = teacher_weight.load([block * ROWS, 0]).to(COMPUTE)
    prototype = block * ROWS + tl.arange(0, ROWS)
    inside = prototype < prototypes
    shift = tl.load(center + prototype, mask=inside, other=0.0) * teacher_scale
    for row in tl.range(0, teacher_rows, COLUMNS):
        h = teacher.load([row, 0]).to(COMPUTE)
        at = row + tl.arange(0, COLUMNS)
        offset = tl.load(teacher_offset + at, mask=at < teacher_rows, other=float("inf"))
        logits = tl.dot(weight, tl.trans(h), input_precision="ieee") * teacher_scale
        exponentials = tl.exp2(logits - shift[:, None] - offset[None, :]).to(COMPUTE)
        sums = tl.dot(exponentials, pulled.load([row, 0]).to(COMPUTE), sums, input_precision="ieee")
    there = prototype.to(tl.int64)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(out + there, (sums * tl.load(factor)).to(out.dtype.element_ty), mask=inside[:, None])
