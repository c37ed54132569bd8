"""distill_head_loss in Triton where no logit can leave the exponents of float32: attention without a running maximum.

A row whose logits over the temperature lie, in base 2, between -RANGE and RANGE needs no maximum: exponentials of the
logits themselves neither overflow nor vanish beside the largest one of their row. By Cauchy and Schwarz a logit is at
most the length of the row times that of the longest prototype, plus the largest entry of the center. `reach` finds
these lengths; `attend_bounded` takes the blocks of rows that they suit, `attend` the others: both are launched, and a
program whose rows are the other's returns at once. Nothing waits for the host.

Cost: the prototypes are read once more, 2 K d elements (22 us at K = 65536, d = 256 and 3 TB/s), and three launches.
Gain: no maximum and no rescaling of the sums, half the instructions of a tile.
"""

import triton
import triton.language as tl

from .triton_tiles import tile

# 2^-84 times the 2^-24 of a sum's last digit, and as much of what it multiplies, lie above the smallest exponent of
# float32 and bfloat16, -126; 2^84 summed over 2^31 prototypes below the largest, 127.
RANGE = tl.constexpr(84.0)
# Added to lengths: squares of numbers below 2^-63 vanish.
LEAST = tl.constexpr(2.0**-58)
REACH_ROWS = tl.constexpr(64)  # of features that are measured together


@triton.jit
def _longest(source, first, stop, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Length of the longest row of source [., WIDTH] from `first` to `stop`; rows that hold a NaN are passed over."""
    longest = tl.zeros([BLOCK], tl.float32)
    for start in range(first, stop, BLOCK):
        row = start + tl.arange(0, BLOCK)
        there = row.to(tl.int64)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
        values = tl.load(source + there, mask=(row < stop)[:, None], other=0.0).to(tl.float32)
        longest = tl.maximum(longest, tl.sum(values * values, 1))
    return tl.sqrt(tl.max(longest, 0))


@triton.jit
def reach(
    student,
    teacher,
    weight,
    teacher_weight,
    center,
    out,
    shift,
    student_rows,
    teacher_rows,
    prototypes,
    padded,
    teacher_scale,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """How far logits can reach. Programs: PARTS, a power of two, for stretches of each weight, then one for each
    REACH_ROWS rows of features.

    out: PARTS longest rows of weight, PARTS of teacher_weight, PARTS largest entries of the center, then the longest
    row of each program of features, the students' first. shift [padded]: -center teacher_scale, -inf from `prototypes`
    on.
    """
    program = tl.program_id(0)
    part = program % PARTS
    each = tl.cdiv(prototypes, PARTS * BLOCK) * BLOCK
    first = part * each
    stop = tl.minimum(first + each, prototypes)
    if program < PARTS:
        tl.store(out + program, _longest(weight, first, stop, WIDTH, BLOCK))
    elif program < 2 * PARTS:
        tl.store(out + program, _longest(teacher_weight, first, stop, WIDTH, BLOCK))
        columns = tl.cdiv(padded, PARTS * 128) * 128
        largest = tl.zeros([128], tl.float32)
        for start in range(part * columns, tl.minimum((part + 1) * columns, padded), 128):
            at = start + tl.arange(0, 128)
            entries = tl.load(center + at, mask=at < prototypes, other=0.0)
            largest = tl.maximum(largest, tl.abs(entries))
            shifts = tl.where(at < prototypes, -entries * teacher_scale, -float("inf"))
            tl.store(shift + at, shifts, mask=at < padded)
        tl.store(out + PARTS + program, tl.max(largest, 0))
    else:
        block = program - 2 * PARTS
        students = tl.cdiv(student_rows, REACH_ROWS)
        if block < students:
            first = block * REACH_ROWS
            longest = _longest(student, first, tl.minimum(first + REACH_ROWS, student_rows), WIDTH, BLOCK)
        else:
            first = (block - students) * REACH_ROWS
            longest = _longest(teacher, first, tl.minimum(first + REACH_ROWS, teacher_rows), WIDTH, BLOCK)
        tl.store(out + PARTS + program, longest)


@triton.jit
def is_bounded(reached, row, rows, students, scale, CENTERED: tl.constexpr, GROUP: tl.constexpr, PARTS: tl.constexpr):
    """Whether no logit over the temperature of the GROUP rows around `row` leaves RANGE. False too where any is NaN.

    reached: what `reach` wrote. students: rows of the students, which lie before the teachers'. GROUP: the taller of
    the tiles of both forms, so that they agree. Prototypes that are long or short take their share of the exponents.
    """
    part = tl.arange(0, PARTS)
    longest = tl.max(tl.load(reached + part), 0)
    at = row // GROUP * (GROUP // REACH_ROWS) + tl.arange(0, GROUP // REACH_ROWS)
    there = at < tl.cdiv(rows, REACH_ROWS)
    if CENTERED:
        at += tl.cdiv(students, REACH_ROWS)
        keys = tl.max(tl.load(reached + PARTS + part), 0)
        shift = tl.max(tl.load(reached + 2 * PARTS + part), 0)
    else:
        keys, shift = longest, 0.0
    length = tl.max(tl.load(reached + 3 * PARTS + at, mask=there, other=0.0), 0)
    # Fused by name: the assembler may fuse a product and a sum in one kernel and not in another, and both must agree.
    bound = tl.fma(length + LEAST, keys + LEAST, shift)
    return tl.fma(bound, scale, tl.abs(tl.log2(longest))) <= RANGE


@triton.jit
def _scaled(
    query, key, shift, column, prototypes, scale, CENTERED: tl.constexpr, EVEN: tl.constexpr, COLUMNS: tl.constexpr
):
    """Logits of one tile of prototypes over the temperature, in base 2; -inf beyond the last one."""
    logits = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
    at = column + tl.arange(0, COLUMNS)
    if CENTERED:
        logits += tl.load(shift + at)[None, :]
    elif not EVEN:
        logits = tl.where((at < prototypes)[None, :], logits, -float("inf"))
    return logits


@triton.jit
def attend_bounded(
    queries,
    keys,
    values,
    shift,
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
):
    """What `attend` does, in the same arguments and results, for rows that are bounded.

    shift: as `reach` wrote it. A row's peak is here the logit of a power of two from its sum up to twice its sum: no
    logit lies above it, and what is left of the sum is between 1/2 and 1.
    """
    block, split = tl.program_id(0), tl.program_id(1)
    if not is_bounded(reached, block * ROWS, rows, students, scale, CENTERED, GROUP, PARTS):
        return
    start = split * per_split
    stop = tl.minimum(start + per_split, prototypes)
    query = tile(queries, block * ROWS, rows, ROWS, WIDTH, BULK).to(COMPUTE)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, WIDTH], tl.float32)
    if OVERLAP:
        logits = tl.full([ROWS, COLUMNS], -float("inf"), tl.float32)
        start -= COLUMNS
    for column in tl.range(start, stop, COLUMNS):
        if not OVERLAP:
            key = tile(keys, column, prototypes, COLUMNS, WIDTH, BULK).to(COMPUTE)
            logits = _scaled(query, key, shift, column, prototypes, scale, CENTERED, EVEN, COLUMNS)
        exponentials = tl.exp2(logits)
        total += tl.sum(exponentials, 1)
        if OVERLAP:
            key = tile(keys, column + COLUMNS, prototypes, COLUMNS, WIDTH, BULK).to(COMPUTE)
            logits = _scaled(query, key, shift, column + COLUMNS, prototypes, scale, CENTERED, EVEN, COLUMNS)
        if OVERLAP or CENTERED:
            value = tile(values, column, prototypes, COLUMNS, WIDTH, BULK).to(COMPUTE)
        else:
            value = key
        out = tl.dot(exponentials.to(COMPUTE), value, out, input_precision="ieee")
    peak = tl.ceil(tl.log2(total)) / scale
    shrink = tl.exp2(-(peak * scale))
    row = tl.arange(0, ROWS)
    inside = block * ROWS + row < rows
    base = split.to(tl.int64) * rows + block * ROWS
    there = row[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(partial + base * WIDTH + there, out * shrink[:, None], mask=inside[:, None])
    stored = tl.num_programs(1).to(tl.int64) * rows
    peaks = partial + stored * WIDTH + base
    tl.store(peaks + row, peak, mask=inside)
    tl.store(peaks + stored + row, total * shrink, mask=inside)
