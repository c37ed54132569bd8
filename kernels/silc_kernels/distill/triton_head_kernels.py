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

from .triton_bounded_kernels import is_bounded
from .triton_tiles import tile

LN2 = tl.constexpr(0.6931471805599453)
# Under every logit, and finite: a row that saw none must not subtract infinities.
LOWEST = tl.constexpr(-3.0e38)


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
    reached,
    partial,
    rows,
    students,
    prototypes,
    per_split,
    scale,
    CENTERED: tl.constexpr,
    EVEN: tl.constexpr,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    OVERLAP: tl.constexpr,
    BULK: tl.constexpr,
    COMPUTE: tl.constexpr,
    HEADROOM: tl.constexpr,
):
    """Program (block of rows, split): softmax((keys q - c) scale) values over a stretch of prototypes, not normalised.

    Written to partial, one behind the other: sums [splits, rows, WIDTH], 2^(HEADROOM + (logit - peak) scale) times the
    values; peaks [splits, rows], the largest logits; totals [splits, rows], the same exponentials alone. CENTERED: the
    teacher, whose keys are not its values; else the student: values are the keys. EVEN: prototypes is a multiple of
    COLUMNS. GROUP: rows that take one form together, by `reached`; those that are bounded are attend_bounded's, and
    left alone here. 0: all are taken. OVERLAP: as above.
    """
    block, split = tl.program_id(0), tl.program_id(1)
    if GROUP:  # noqa: SIM102 (one is of the compiler, one of the kernel)
        if is_bounded(reached, block * ROWS, rows, students, scale, CENTERED, GROUP, PARTS):
            return
    query = tile(queries, block * ROWS, rows, ROWS, WIDTH, BULK).to(COMPUTE)
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
            key = tile(keys, column, prototypes, COLUMNS, WIDTH, BULK).to(COMPUTE)
            logits = _logits(query, key, center, column, prototypes, CENTERED, EVEN, COLUMNS)
        higher = tl.maximum(peak, tl.max(logits, 1))
        exponentials = tl.exp2((logits - higher[:, None]) * scale + HEADROOM)
        shrink = tl.exp2((peak - higher) * scale)
        total = total * shrink + tl.sum(exponentials, 1)
        if OVERLAP:
            key = tile(keys, column + COLUMNS, prototypes, COLUMNS, WIDTH, BULK).to(COMPUTE)
            # Masked always: where a pass begins by reading a product, ptxas has it wait for all that are in flight.
            logits = _logits(query, key, center, column + COLUMNS, prototypes, CENTERED, False, COLUMNS)
        if OVERLAP or CENTERED:
            value = tile(values, column, prototypes, COLUMNS, WIDTH, BULK).to(COMPUTE)
        else:
            value = key
        out = tl.dot(exponentials.to(COMPUTE), value, out * shrink[:, None], input_precision="ieee")
        peak = higher
    row = tl.arange(0, ROWS)
    inside = block * ROWS + row < rows
    base = split.to(tl.int64) * rows + block * ROWS
    there = row[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    stored = tl.num_programs(1).to(tl.int64) * rows
    peaks = partial + (stored * WIDTH + base)
    tl.store(peaks + row, peak, mask=inside)
    tl.store(peaks + stored + row, total, mask=inside)
    # Offsets within the tile fit 32 bits: fewer registers while the sums are in others.
    tl.store(partial + base * WIDTH + there, out, mask=inside[:, None])


@triton.jit
def _merged(partial, norm, row, rows, count, splits, scale, WIDTH: tl.constexpr, HEADROOM: tl.constexpr):
    """Splits of `row` [B] as one: peak [B] and log2 of the sum [B], also to norm [2, count]; attended [B, WIDTH]."""
    inside = row < rows
    stored = tl.cast(splits, tl.int64) * rows
    peaks = partial + stored * WIDTH
    totals = peaks + stored
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
        out += tl.load(partial + there, mask=inside[:, None], other=0.0) * shrink[:, None]
    log_total = tl.log2(total) - HEADROOM
    tl.store(norm + row, peak, mask=inside)
    tl.store(norm + count + row, log_total, mask=inside)
    return peak, log_total, out / total[:, None]


@triton.jit
def finish_teacher(
    partial,
    attended,
    norms,
    rows,
    students,
    splits,
    scale,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HEADROOM: tl.constexpr,
):
    """y_t [T N, WIDTH], and behind the students' in norms [2, (S + T) N]: a logit that none exceeds, the largest or, of
    bounded rows, a larger one; log2 of the sum of exponentials of how far logits lie below it. students: S N.
    """
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    _, _, out = _merged(partial, norms + students, row, rows, students + rows, splits, scale, WIDTH, HEADROOM)
    there = row.to(tl.int64)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(attended + there, out, mask=(row < rows)[:, None])


@triton.jit
def finish_student(
    partial,
    student,
    attended,
    weights,
    d_student,
    norms,
    loss,
    rows,
    samples,
    teachers,
    width,
    splits,
    scale,
    inverse_temp,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HEADROOM: tl.constexpr,
):
    """Of each row: d_student = (W_s O_s - pull) / tau_s and loss = W_s LSE_s - x . pull / tau_s, pull = sum_t w_st y_t.

    norms: as the teachers'. d_student [S N, width], where features are not filled up to WIDTH.
    """
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    count = rows + teachers * samples
    peak, log_total, out = _merged(partial, norms, row, rows, count, splits, scale, WIDTH, HEADROOM)
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
    there = row.to(tl.int64)[:, None] * width + column
    tl.store(d_student + there, (mass[:, None] * out - pull) * inverse_temp, mask=inside[:, None] & (column < width))
    lse = peak * inverse_temp + log_total * LN2
    tl.store(loss + row, mass * lse - tl.sum(x * pull, 1) * inverse_temp, mask=inside)
