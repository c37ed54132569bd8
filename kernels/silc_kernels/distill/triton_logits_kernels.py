"""distill_loss in Triton: all logits of a sample read once, forward and once more backward.

Each lane of a program keeps running statistics of its own over the prototypes it sees, VECTOR neighbours at a time, so
nothing crosses lanes before the end. Exponentials are in base 2: a scale is log2(e) / temperature. A row's maximum is
kept as a logit, apart from its sum: a log-sum-exp would take digits from the exponentials where logits are large.

The cross term needs one number a teacher, not one a pair: with u_t = sum_s w_st z_s, made of values already in
registers, sum_st w_st P_t . z_s = sum_t P_t . u_t.
"""

import triton
import triton.language as tl

# Under every logit, and finite: a lane that saw nothing must not subtract infinities.
LOWEST = tl.constexpr(-3.0e38)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _read(row, columns, stride, stop, MASKED: tl.constexpr):
    """Logits of one row as float32; 0 from `stop` on."""
    if MASKED:
        return tl.load(row + columns * stride, mask=columns < stop, other=0.0).to(tl.float32)
    return tl.load(row + columns * stride).to(tl.float32)


@triton.jit
def _online(logits, scale, peak, total):
    """Lane by lane: exponentials of [LANES, VECTOR] logits, the new statistics, and what older sums shrink by."""
    higher = tl.maximum(peak, tl.max(logits, 1))
    exponentials = tl.exp2((logits - higher[:, None]) * scale)
    shrink = tl.exp2((peak - higher) * scale)
    return exponentials, higher, total * shrink + tl.sum(exponentials, 1), shrink


@triton.jit
def _fold(peak, total, scale):
    """Statistics of all lanes as those of one; and what each lane's sums shrink by."""
    top = tl.max(peak, 0)
    shrink = tl.exp2((peak - top) * scale)
    return top, tl.sum(total * shrink, 0), shrink


@triton.jit
def _tile(
    rows,
    columns,
    stop,
    pairs,
    state,
    first,
    students,
    strides,
    scales,
    GROUP: tl.constexpr,
    TEACHERS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """The state after one more tile of prototypes: peaks, totals of students; peaks, totals, crosses of teachers."""
    student, teacher, center = rows
    stride_s, stride_sk, stride_t, stride_tk = strides
    student_scale, teacher_scale = scales
    student_peaks, student_totals, teacher_peaks, teacher_totals, crosses = state
    inside = columns < stop
    mixtures = ()
    for _ in tl.static_range(TEACHERS):
        mixtures = mixtures + (tl.zeros(columns.shape, tl.float32),)
    peaks, totals = (), ()
    for s in tl.static_range(GROUP):
        row = tl.minimum(first + s, students - 1).to(tl.int64)
        logits = _read(student + row * stride_s, columns, stride_sk, stop, MASKED)
        added = ()
        for t in tl.static_range(TEACHERS):
            added = added + (mixtures[t] + pairs[s * TEACHERS + t] * logits,)
        mixtures = added
        if MASKED:
            logits = tl.where(inside, logits, -float("inf"))
        _, peak, total, _ = _online(logits, student_scale, student_peaks[s], student_totals[s])
        peaks, totals = peaks + (peak,), totals + (total,)
    shift = _read(center, columns, 1, stop, MASKED)
    other_peaks, other_totals, sums = (), (), ()
    for t in tl.static_range(TEACHERS):
        logits = _read(teacher + tl.cast(t, tl.int64) * stride_t, columns, stride_tk, stop, MASKED) - shift
        if MASKED:
            logits = tl.where(inside, logits, -float("inf"))
        targets, peak, total, shrink = _online(logits, teacher_scale, teacher_peaks[t], teacher_totals[t])
        other_peaks, other_totals = other_peaks + (peak,), other_totals + (total,)
        sums = sums + (crosses[t] * shrink + tl.sum(targets * mixtures[t], 1),)
    return peaks, totals, other_peaks, other_totals, sums


@triton.jit
def statistics(
    student,
    teacher,
    center,
    weights,
    partial,
    samples,
    students,
    prototypes,
    per_split,
    stride_s,
    stride_sn,
    stride_sk,
    stride_t,
    stride_tn,
    stride_tk,
    student_scale,
    teacher_scale,
    GROUP: tl.constexpr,
    TEACHERS: tl.constexpr,
    LANES: tl.constexpr,
    VECTOR: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Program (sample, split, group): a stretch of prototypes, GROUP students of a sample and all its teachers.

    Written to partial, one behind the other: [splits, S, N] the largest logit, and the sum of exponentials of how far,
    over the temperature, logits lie below it; [splits, groups, T, N] the same of the teachers, and that sum times u_t.
    """
    sample, split, group = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = group * GROUP
    student += sample.to(tl.int64) * stride_sn
    teacher += sample.to(tl.int64) * stride_tn
    lanes = tl.arange(0, LANES)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    start = split * per_split
    stop = tl.maximum(start, tl.minimum(start + per_split, prototypes))
    whole = start + (stop - start) // (LANES * VECTOR) * (LANES * VECTOR)

    pairs, low, zero = (), tl.full([LANES], LOWEST, tl.float32), tl.zeros([LANES], tl.float32)
    peaks, totals, other_peaks, other_totals, sums = (), (), (), (), ()
    for s in tl.static_range(GROUP):
        peaks, totals = peaks + (low,), totals + (zero,)
        for t in tl.static_range(TEACHERS):
            # The last group may hold rows too many: they repeat the last student, with no weight.
            weight = tl.load(weights + (first + s) * TEACHERS + t, mask=first + s < students, other=0.0)
            pairs = pairs + (weight,)
    for _ in tl.static_range(TEACHERS):
        other_peaks, other_totals, sums = other_peaks + (low,), other_totals + (zero,), sums + (zero,)
    state = (peaks, totals, other_peaks, other_totals, sums)

    rows, scales = (student, teacher, center), (student_scale, teacher_scale)
    strides = (stride_s, stride_sk, stride_t, stride_tk)
    for column in tl.range(start, whole, LANES * VECTOR, num_stages=STAGES):
        at = (column + lanes).to(tl.int64)
        state = _tile(rows, at, stop, pairs, state, first, students, strides, scales, GROUP, TEACHERS, False)
    for column in range(whole, stop, LANES * VECTOR):
        at = (column + lanes).to(tl.int64)
        state = _tile(rows, at, stop, pairs, state, first, students, strides, scales, GROUP, TEACHERS, True)

    peaks, totals, other_peaks, other_totals, sums = state
    own, others = _stored(tl.num_programs(1), tl.num_programs(2), samples, students, TEACHERS)
    for s in tl.static_range(GROUP):
        peak, total, _ = _fold(peaks[s], totals[s], student_scale)
        at = (split * students + first + s).to(tl.int64) * samples + sample
        tl.store(partial + at, peak, mask=first + s < students)
        tl.store(partial + own + at, total, mask=first + s < students)
    partial += 2 * own
    for t in tl.static_range(TEACHERS):
        peak, total, shrink = _fold(other_peaks[t], other_totals[t], teacher_scale)
        at = ((split * tl.num_programs(2) + group) * TEACHERS + t).to(tl.int64) * samples + sample
        tl.store(partial + at, peak)
        tl.store(partial + others + at, total)
        tl.store(partial + 2 * others + at, tl.sum(sums[t] * shrink, 0))


@triton.jit
def _stored(splits, groups, samples, students, teachers):
    """How many numbers a statistic of the students is, and one of the teachers."""
    rows = tl.cast(splits, tl.int64) * samples
    return rows * students, rows * groups * teachers


@triton.jit
def merge(
    partial,
    weights,
    norms,
    loss,
    samples,
    students,
    groups,
    student_scale,
    teacher_scale,
    inverse_student_temp,
    TEACHERS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (block of samples, row of S + T): the splits of a row as one, and its share of the loss [S + T, N].

    partial: of `statistics`. norms [2, S + T, N] holds the maximum and log2 of the sum.
    """
    own, others = _stored(SPLITS, groups, samples, students, TEACHERS)
    row = tl.program_id(1)
    sample = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = sample < samples
    split = tl.arange(0, SPLITS)[:, None].to(tl.int64)
    if row < students:
        at = (split * students + row) * samples + sample[None, :]
        peaks = tl.load(partial + at, mask=inside[None, :], other=0.0)
        totals = tl.load(partial + own + at, mask=inside[None, :], other=1.0)
        peak, total, _ = _fold(peaks, totals, student_scale)
        mass = 0.0
        for t in tl.static_range(TEACHERS):
            mass += tl.load(weights + row * TEACHERS + t)
        share = mass * (peak * inverse_student_temp + tl.log2(total) * LN2)
    else:
        # Every group of students saw the same teachers: the statistics are the first group's, the cross terms add up.
        partial += 2 * own
        teacher = row - students
        at = (split * groups * TEACHERS + teacher) * samples + sample[None, :]
        peaks = tl.load(partial + at, mask=inside[None, :], other=0.0)
        totals = tl.load(partial + others + at, mask=inside[None, :], other=1.0)
        peak, total, shrink = _fold(peaks, totals, teacher_scale)
        products = tl.zeros([BLOCK], tl.float32)
        for group in range(groups):
            other = tl.load(partial + 2 * others + at + group * TEACHERS * samples, mask=inside[None, :], other=0.0)
            products += tl.sum(other * shrink, 0)
        share = -products / total * inverse_student_temp
    at = row.to(tl.int64) * samples + sample
    tl.store(loss + at, share, mask=inside)
    tl.store(norms + at, peak, mask=inside)
    tl.store(norms + tl.cast(students + TEACHERS, tl.int64) * samples + at, tl.log2(total), mask=inside)


@triton.jit
def gradient(
    student,
    teacher,
    center,
    weights,
    norms,
    upstream,
    out,
    samples,
    students,
    prototypes,
    stride_s,
    stride_sn,
    stride_sk,
    stride_t,
    stride_tn,
    stride_tk,
    stride_o,
    stride_on,
    stride_ok,
    student_scale,
    teacher_scale,
    inverse_student_temp,
    GROUP: tl.constexpr,
    TEACHERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (sample x block of prototypes, group): (W_s P_s - sum_t w_st P_t) / tau_s, times the incoming gradient.

    `out` may be `student`: all is read before anything is written.
    """
    blocks = tl.cdiv(prototypes, BLOCK)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    first = tl.program_id(1) * GROUP
    columns = (tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    inside = columns < prototypes
    logits = ()
    for s in tl.static_range(GROUP):
        row = tl.minimum(first + s, students - 1).to(tl.int64)
        at = student + row * stride_s + sample * stride_sn + columns * stride_sk
        logits = logits + (tl.load(at, mask=inside, other=0.0),)
    shift = tl.load(center + columns, mask=inside, other=0.0).to(tl.float32)
    targets = ()
    for t in tl.static_range(TEACHERS):
        at = teacher + tl.cast(t, tl.int64) * stride_t + sample * stride_tn + columns * stride_tk
        raw = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        peak = tl.load(norms + (students + t) * samples + sample)
        total = tl.load(norms + (2 * students + TEACHERS + t) * samples + sample)
        targets = targets + (tl.exp2((raw - shift - peak) * teacher_scale - total),)
    factor = tl.load(upstream) * inverse_student_temp
    for s in tl.static_range(GROUP):
        row = tl.minimum(first + s, students - 1).to(tl.int64)
        wanted = tl.zeros([BLOCK], tl.float32)
        mass = 0.0
        for t in tl.static_range(TEACHERS):
            weight = tl.load(weights + row * TEACHERS + t)
            wanted += weight * targets[t]
            mass += weight
        peak = tl.load(norms + row * samples + sample)
        total = tl.load(norms + (students + TEACHERS + row) * samples + sample)
        given = mass * tl.exp2((logits[s].to(tl.float32) - peak) * student_scale - total)
        at = out + row * stride_o + sample * stride_on + columns * stride_ok
        tl.store(at, ((given - wanted) * factor).to(out.dtype.element_ty), mask=inside & (first + s < students))
