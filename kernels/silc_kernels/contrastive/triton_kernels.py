"""The kernels of contrastive_loss: one tile of similarities a program, multiplied once for rows and columns alike."""

import triton
import triton.language as tl

# exp(x) is a normal float32 up to this and down to its negative: where a tile spans less, one exponential an entry
# serves its row and its column.
NARROW = tl.constexpr(80.0)
# Arguments that say where matching pairs lie: any numbers, for which nothing is compiled anew.
PLACES = "first_row", "first_column", "pairs"


@triton.jit
def _products(
    images, texts, row, last_row, column, last_column, width,
    BULK: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """image_i . text_j from (row, column) on, [ROWS, COLUMNS] float32. What lies behind the last is anything finite.

    images, texts: tensor descriptors if BULK, else pointers to contiguous [n, width].
    """
    # A path around the loop would set the sums between a product and the wait for it: ptxas then waits every time.
    tl.assume(width > 0)
    products = tl.zeros((ROWS, COLUMNS), tl.float32)
    rows, columns = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    for start in range(0, width, DEPTH):
        if BULK:
            image, text = images.load([row, start]), texts.load([column, start])
        else:
            along = start + tl.arange(0, DEPTH)
            in_width = (along < width)[None, :]
            of_images = rows.to(tl.int64)[:, None] * width + along[None, :]
            image = tl.load(images + of_images, mask=(rows < last_row)[:, None] & in_width, other=0.0)
            of_texts = columns.to(tl.int64)[:, None] * width + along[None, :]
            text = tl.load(texts + of_texts, mask=(columns < last_column)[:, None] & in_width, other=0.0)
        products = tl.dot(image.to(COMPUTE), text.to(COMPUTE).T, products, input_precision="ieee")
    return products


@triton.jit
def _halves(tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Left and right, without a move between threads."""
    return tl.split(tl.permute(tl.reshape(tile, (ROWS, 2, COLUMNS // 2)), (0, 2, 1)))


@triton.jit
def _quarters(tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """From left to right. Worked on one after the other they need few registers, so that two programs fit."""
    left, right = _halves(tile, ROWS, COLUMNS)
    first, second = _halves(left, ROWS, COLUMNS // 2)
    third, fourth = _halves(right, ROWS, COLUMNS // 2)
    return first, second, third, fourth


@triton.jit(do_not_specialize=["row", "n_rows", "column", "n_columns", *PLACES])
def log_sum_exp_kernel(
    images, texts, scale, row_parts, column_parts, positives,
    row, n_rows, column, n_columns, width, first_row, first_column, pairs,
    BULK: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Log-sum-exps of each tile's rows, and of its columns, parts of those of whole rows and columns.

    Of `views` views, one for each of the grid's second numbers: rows row + view n_rows .. of images, n_rows of them,
    by texts column .. column + n_columns. In each, pair m of `pairs` is at (first_row, first_column) + m.

    row_parts [column tiles, views, row tiles ROWS], column_parts [row tiles, views, column tiles COLUMNS].
    positives: of all images, the similarities of matching pairs, where there is one.
    """
    view, views = tl.program_id(1), tl.num_programs(1)
    row_tiles, column_tiles = tl.cdiv(n_rows, ROWS), tl.cdiv(n_columns, COLUMNS)
    # GROUP tiles one below the other, then the next column of them: what runs together reads few features.
    group = tl.program_id(0) // (GROUP * column_tiles)
    within = tl.program_id(0) % (GROUP * column_tiles)
    height = tl.minimum(row_tiles - group * GROUP, GROUP)
    tile_row, tile_column = group * GROUP + within % height, within // height
    top, left = tile_row * ROWS, tile_column * COLUMNS
    own = row + view * n_rows
    products = _products(
        images, texts, own + top, own + n_rows, column + left, column + n_columns, width,
        BULK, COMPUTE, ROWS, COLUMNS, DEPTH,
    )  # fmt: skip
    factor = tl.load(scale)
    rows, columns = top + tl.arange(0, ROWS), tl.arange(0, COLUMNS // 4)
    parts = _quarters(products, ROWS, COLUMNS)
    # Of matching pair m the tile holds those from `first` to before `last`.
    first = tl.maximum(0, tl.maximum(top - first_row, left - first_column))
    last = tl.minimum(pairs, tl.minimum(top - first_row + ROWS, left - first_column + COLUMNS))
    if first < last:
        pair = rows - first_row
        of_pairs = tl.zeros((ROWS,), tl.float32)
        for part in tl.static_range(4):
            matching = (pair + first_column - left - part * (COLUMNS // 4))[:, None] == columns[None, :]
            of_pairs += tl.sum(tl.where(matching, parts[part], 0.0), 1)
        tl.store(positives + own + rows, of_pairs * factor, mask=(pair >= first) & (pair < last))
    # The parts have room for whole tiles: no mask.
    place = (tile_row * views + view).to(tl.int64) * column_tiles + tile_column
    column_parts += place * COLUMNS + columns
    # What lies outside can only widen the span.
    high = tl.max(products * factor)
    total = tl.zeros((ROWS,), tl.float32)
    if high - tl.min(products * factor) < NARROW:
        for part in tl.static_range(4):
            inside = (rows < n_rows)[:, None] & (left + part * (COLUMNS // 4) + columns < n_columns)[None, :]
            values = tl.exp(tl.where(inside, parts[part] * factor - high, float("-inf")))
            total += tl.sum(values, 1)
            tl.store(column_parts + part * (COLUMNS // 4), tl.log(tl.sum(values, 0)) + high)
        of_rows = tl.log(total) + high
    else:
        # A row or column outside has no peak: what it gives is not read.
        peaks = tl.full((ROWS,), float("-inf"), tl.float32)
        for part in tl.static_range(4):
            inside = (left + part * (COLUMNS // 4) + columns < n_columns)[None, :]
            peaks = tl.maximum(peaks, tl.max(tl.where(inside, parts[part] * factor, float("-inf")), 1))
        for part in tl.static_range(4):
            inside = (rows < n_rows)[:, None] & (left + part * (COLUMNS // 4) + columns < n_columns)[None, :]
            similarities = tl.where(inside, parts[part] * factor, float("-inf"))
            total += tl.sum(tl.exp(similarities - peaks[:, None]), 1)
            column_peaks = tl.max(similarities, 0)
            of_columns = tl.log(tl.sum(tl.exp(similarities - column_peaks[None, :]), 0)) + column_peaks
            tl.store(column_parts + part * (COLUMNS // 4), of_columns)
        of_rows = tl.log(total) + peaks
    place = (tile_column * views + view).to(tl.int64) * row_tiles + tile_row
    tl.store(row_parts + place * ROWS + tl.arange(0, ROWS), of_rows)


@triton.jit
def _log_sum_exp(peak, parts, stride, n_parts, at, inside, BLOCK: tl.constexpr, PARTS: tl.constexpr):
    """log(exp(peak) + sum over parts [n_parts, stride] of exp(part)) at columns `at` [BLOCK]."""
    total = tl.full((BLOCK,), 1.0, tl.float32)
    for start in range(0, n_parts, PARTS):
        part = start + tl.arange(0, PARTS)
        places = part.to(tl.int64)[:, None] * stride + at[None, :]
        values = tl.load(parts + places, mask=(part < n_parts)[:, None] & inside[None, :], other=float("-inf"))
        higher = tl.maximum(peak, tl.max(values, 0))
        # Nothing added yet, and nothing here: -inf - -inf would be nan.
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(peak - safe) + tl.sum(tl.exp(values - safe[None, :]), 0)
        peak = higher
    return peak + tl.log(total)


@triton.jit
def _merge(parts, stride, totals, n_parts, length, fresh, program, BLOCK: tl.constexpr, PARTS: tl.constexpr):
    """totals [length] <- log(exp(totals) + sum over parts [n_parts, stride] of exp(part)). fresh: no totals yet."""
    at = program * BLOCK + tl.arange(0, BLOCK)
    inside = at < length
    peak = tl.load(totals + at, mask=inside & (fresh == 0), other=float("-inf"))
    tl.store(totals + at, _log_sum_exp(peak, parts, stride, n_parts, at, inside, BLOCK, PARTS), mask=inside)


@triton.jit(do_not_specialize=["ranks", "taken", "n", "start"])
def merge_ranks_kernel(parts, columns, ranks, taken, n, start, BLOCK: tl.constexpr, PARTS: tl.constexpr):
    """columns [V, ranks, n] from `start` on, `taken` of each rank: the log-sum-exp over rows of all ranks, of which
    each has sent its own, parts [ranks, V, ranks taken].
    """
    view, views = tl.program_id(1), tl.num_programs(1)
    length = ranks * taken
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < length
    nothing = tl.full((BLOCK,), float("-inf"), tl.float32)
    totals = _log_sum_exp(nothing, parts + view * length, views * length, ranks, at, inside, BLOCK, PARTS)
    places = (view * ranks + at // taken) * n + start + at % taken
    tl.store(columns + places, totals, mask=inside)


@triton.jit(do_not_specialize=["row", "n_rows", "column", "n_columns", "across", "view", "fresh_rows", "fresh_columns"])
def merge_kernel(
    row_parts, column_parts, rows, columns, row, n_rows, column, n_columns, across, view, fresh_rows, fresh_columns,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Add what `log_sum_exp_kernel` found to the log-sum-exps of rows [all rows] and columns [V, across], in place.

    view: the first one. fresh_rows, fresh_columns: there is nothing yet, and is not read. The grid's first number:
    blocks of rows, then of columns.
    """
    program, place, views = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    row_tiles, column_tiles = tl.cdiv(n_rows, ROWS), tl.cdiv(n_columns, COLUMNS)
    programs_of_rows = tl.cdiv(n_rows, BLOCK)
    if program < programs_of_rows:
        length = row_tiles * ROWS
        totals = rows + row + place * n_rows
        parts = row_parts + place * length
        _merge(parts, views * length, totals, column_tiles, n_rows, fresh_rows, program, BLOCK, PARTS)
    else:
        length = column_tiles * COLUMNS
        totals = columns + (view + place).to(tl.int64) * across + column
        program -= programs_of_rows
        parts = column_parts + place * length
        _merge(parts, views * length, totals, row_tiles, n_columns, fresh_columns, program, BLOCK, PARTS)


@triton.jit
def _not_matching(rows, columns, first_row, first_column, pairs):
    pair = rows - first_row
    partner = tl.where((pair >= 0) & (pair < pairs), pair + first_column, -1)
    return partner[:, None] != columns[None, :]


@triton.jit
def _store_gradient(gradient, values, first, rows, columns, n_rows, stride):
    """To [views n_rows, stride] from row `first` on. stride is a multiple of 16, up to which zeros are written."""
    places = gradient + (first + rows).to(tl.int64)[:, None] * stride + columns[None, :]
    tl.store(places, values.to(gradient.dtype.element_ty), mask=(rows < n_rows)[:, None] & (columns < stride)[None, :])


@triton.jit
def _add(sums, length, which, of_rows):
    """sums [.., length][which, this program] += sum of_rows. Launches follow one another: nobody else writes there."""
    program = (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
    place = sums + which * length + program
    tl.store(place, tl.load(place) + tl.sum(of_rows))


@triton.jit
def _span(rows, n_rows, columns, n_columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Least and largest total of a tile's rows and columns."""
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    of_rows = tl.load(rows + row, mask=row < n_rows, other=float("inf"))
    of_columns = tl.load(columns + column, mask=column < n_columns, other=float("inf"))
    low = tl.minimum(tl.min(of_rows), tl.min(of_columns))
    of_rows = tl.where(row < n_rows, of_rows, float("-inf"))
    of_columns = tl.where(column < n_columns, of_columns, float("-inf"))
    return low, tl.maximum(tl.max(of_rows), tl.max(of_columns))


@triton.jit(do_not_specialize=["row", "n_rows", "column", "n_columns", *PLACES, "across", "view", "length", "counted"])
def softmax_gradient_kernel(
    images, texts, scale, row_totals, column_totals, gradient, sums,
    row, n_rows, column, n_columns, width, first_row, first_column, pairs, across, view, stride, length, counted, unit,
    BULK: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """gradient [views n_rows, stride]: unit (exp(s_ij - row_i) + exp(s_ij - column_j)), 0 for matching pairs.

    The tile as for `log_sum_exp_kernel`, views the grid's third number. row_totals [all rows], column_totals [V,
    across], view: the first one. If counted, sums[1] [length] += sum_ij G_ij image_i . text_j.
    """
    top, left = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    below = tl.program_id(2) * n_rows
    row_totals += row + below
    column_totals += (view + tl.program_id(2)).to(tl.int64) * across + column
    low, high = _span(row_totals + top, n_rows - top, column_totals + left, n_columns - left, ROWS, COLUMNS)
    # exp(s - row) = exp(s - low) exp(low - row), and s exceeds no total: what underflows in the first factor is zero.
    narrow = high - low < NARROW
    own = row + below
    products = _products(
        images, texts, own + top, own + n_rows, column + left, column + n_columns, width,
        BULK, COMPUTE, ROWS, COLUMNS, DEPTH,
    )  # fmt: skip
    rows = top + tl.arange(0, ROWS)
    of_rows = tl.load(row_totals + rows, mask=rows < n_rows, other=float("inf"))
    shares = tl.exp(low - of_rows)
    factor = tl.load(scale)
    total = tl.zeros((ROWS,), tl.float32)
    parts = _quarters(products, ROWS, COLUMNS)
    for part in tl.static_range(4):
        columns = left + part * (COLUMNS // 4) + tl.arange(0, COLUMNS // 4)
        of_columns = tl.load(column_totals + columns, mask=columns < n_columns, other=float("inf"))
        counts = (columns < n_columns)[None, :] & _not_matching(rows, columns, first_row, first_column, pairs)
        similarities = tl.where(counts, parts[part] * factor, float("-inf"))
        if narrow:
            values = tl.exp(similarities - low) * (shares[:, None] + tl.exp(low - of_columns)[None, :])
        else:
            values = tl.exp(similarities - of_rows[:, None]) + tl.exp(similarities - of_columns[None, :])
        total += tl.sum(values * parts[part], 1)
        _store_gradient(gradient, values * unit, below, rows, columns, n_rows, stride)
    if counted:
        _add(sums, length, 1, tl.where(rows < n_rows, total, 0.0))


@triton.jit
def _log1p(x):
    """log(1 + x) on [0, 1] to 2e-7 of itself, also where x is tiny and log2 of 1 + x would keep nothing of it.

    x times the polynomial nearest to log(1 + x) / x by the largest relative error (3e-8 before rounding): no division.
    """
    tail = -0.13663247 + x * (0.078225963 + x * (-0.029505240 + x * 0.0052326936))
    return x * (0.99999994 + x * (-0.49999493 + x * (0.33319098 + x * (-0.24842982 + x * (0.19106008 + x * tail)))))


@triton.jit(do_not_specialize=["row", "n_rows", "column", "n_columns", *PLACES, "length", "counted"])
def sigmoid_gradient_kernel(
    images, texts, scale, bias, gradient, sums,
    row, n_rows, column, n_columns, width, first_row, first_column, pairs, stride, length, counted, unit,
    BULK: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """gradient [views n_rows, stride]: unit sigmoid(s_ij), 0 for matching pairs; the tile as for the softmax.

    If counted, sums [3, length] += [softplus(s_ij), sigmoid(s_ij) image_i . text_j, sigmoid(s_ij)].
    """
    top, left = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    below = tl.program_id(2) * n_rows
    own = row + below
    products = _products(
        images, texts, own + top, own + n_rows, column + left, column + n_columns, width,
        BULK, COMPUTE, ROWS, COLUMNS, DEPTH,
    )  # fmt: skip
    rows = top + tl.arange(0, ROWS)
    factor, shift = tl.load(scale), tl.load(bias)
    losses = tl.zeros((ROWS,), tl.float32)
    of_products, of_values = tl.zeros_like(losses), tl.zeros_like(losses)
    parts = _quarters(products, ROWS, COLUMNS)
    for part in tl.static_range(4):
        columns = left + part * (COLUMNS // 4) + tl.arange(0, COLUMNS // 4)
        counts = (columns < n_columns)[None, :] & _not_matching(rows, columns, first_row, first_column, pairs)
        similarities = tl.where(counts, parts[part] * factor + shift, float("-inf"))
        small = tl.exp(-tl.abs(similarities))
        # Before the values, which need the registers; of_products and of_values cost less than a branch around them.
        if counted:
            losses += tl.sum(tl.maximum(similarities, 0.0) + _log1p(small), 1)
        values = tl.where(similarities >= 0, 1.0, small) / (1.0 + small)
        of_products += tl.sum(values * parts[part], 1)
        of_values += tl.sum(values, 1)
        _store_gradient(gradient, values * unit, below, rows, columns, n_rows, stride)
    if counted:
        _add(sums, length, 0, tl.where(rows < n_rows, losses, 0.0))
        _add(sums, length, 1, tl.where(rows < n_rows, of_products, 0.0))
        _add(sums, length, 2, tl.where(rows < n_rows, of_values, 0.0))


@triton.jit
def _expm1(x):
    """exp(x) - 1, also where x is tiny."""
    series = 1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720 + x * (1 / 5040 + x / 40320))))))
    return tl.where(tl.abs(x) < 0.5, x * series, tl.exp(x) - 1)


@triton.jit(do_not_specialize=["n", "views", "across", "column", "length", "at"])
def pairs_kernel(
    images, texts, scale, bias, row_totals, column_totals, positives, pulls, d_image, sums,
    n, views, width, across, column, length, at,
    SOFTMAX: tl.constexpr, IMAGE: tl.constexpr, TEXT: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """What matching pairs pull, 2 - G_ii or 1 - G_ii, which G leaves out: here it is neither cancelled nor rounded.

    images [V, n, width], texts [n, width]; row_totals and positives [V, n], column_totals [V, across] from `column` on.
    pulls [V, n]: is written, if TEXT. d_image [V, n, width] -= pull text, if IMAGE.
    sums [4, length]: in the column `at` + program the pairs' loss, -pull image . text, -pull; once the scale.
    """
    tl.assume(width > 0)
    pair = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pair < n
    own = pair.to(tl.int64)[:, None] * width
    factor = tl.load(scale)
    losses = tl.zeros((BLOCK,), tl.float32)
    of_products, of_pulls = tl.zeros_like(losses), tl.zeros_like(losses)
    for view in range(views):
        rows = view * n + pair
        of_view = rows.to(tl.int64)[:, None] * width
        products = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, width, DEPTH):
            along = start + tl.arange(0, DEPTH)[None, :]
            mask = inside[:, None] & (along < width)
            image = tl.load(images + of_view + along, mask=mask, other=0.0).to(tl.float32)
            products += tl.sum(image * tl.load(texts + own + along, mask=mask, other=0.0).to(tl.float32), 1)
        if SOFTMAX:
            positive = tl.load(positives + rows, mask=inside, other=0.0)
            from_rows = positive - tl.load(row_totals + rows, mask=inside, other=0.0)
            of_columns = column_totals + view * across + column + pair
            from_columns = positive - tl.load(of_columns, mask=inside, other=0.0)
            loss, pull = -(from_rows + from_columns), -(_expm1(from_rows) + _expm1(from_columns))
        else:
            similarity = products * factor + tl.load(bias)
            small = tl.exp(-tl.abs(similarity))
            loss = tl.maximum(-similarity, 0.0) + _log1p(small)
            pull = tl.where(similarity >= 0, small, 1.0) / (1.0 + small)
        pull = tl.where(inside, pull, 0.0)
        losses += tl.where(inside, loss, 0.0)
        of_products += pull * products
        of_pulls += pull
        if TEXT:
            tl.store(pulls + rows, pull, mask=inside)
        if IMAGE:
            for start in range(0, width, DEPTH):
                along = start + tl.arange(0, DEPTH)[None, :]
                mask = inside[:, None] & (along < width)
                text = tl.load(texts + own + along, mask=mask, other=0.0).to(tl.float32)
                total = tl.load(d_image + of_view + along, mask=mask, other=0.0)
                tl.store(d_image + of_view + along, total - pull[:, None] * text, mask=mask)
    place = sums + at + tl.program_id(0)
    tl.store(place, tl.sum(losses))
    tl.store(place + length, -tl.sum(of_products))
    # The softmax has no bias.
    tl.store(place + 2 * length, 0.0 if SOFTMAX else -tl.sum(of_pulls))
    tl.store(place + 3 * length, tl.where(tl.program_id(0) == 0, factor, 0.0))


@triton.jit(do_not_specialize=["n", "views"])
def text_pairs_kernel(images, pulls, d_text, n, views, width, BLOCK: tl.constexpr, DEPTH: tl.constexpr):
    """d_text [n, width] -= sum over views of pull image, from the pulls [V, n] that `pairs_kernel` found."""
    pair = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    along = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)[None, :]
    inside = pair < n
    mask = inside[:, None] & (along < width)
    own = d_text + pair.to(tl.int64)[:, None] * width + along
    total = tl.load(own, mask=mask, other=0.0)
    for view in range(views):
        rows = view * n + pair
        image = tl.load(images + rows.to(tl.int64)[:, None] * width + along, mask=mask, other=0.0)
        total -= tl.load(pulls + rows, mask=inside, other=0.0)[:, None] * image.to(tl.float32)
    tl.store(own, total, mask=mask)
