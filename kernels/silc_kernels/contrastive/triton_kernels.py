"""The kernels of contrastive_loss: one tile of similarities a program, multiplied once for rows and columns alike."""

import triton
import triton.language as tl

# exp(x) is a normal float32 up to this and down to its negative: where a tile spans less, one exponential an entry
# serves its row and its column.
NARROW = tl.constexpr(80.0)


@triton.jit
def _products(
    images, texts, row, column, n_rows, n_columns, width,
    BULK: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """image_i . text_j from (row, column) on, [ROWS, COLUMNS] float32; 0 outside the matrix.

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
            image = tl.load(images + of_images, mask=(rows < n_rows)[:, None] & in_width, other=0.0)
            of_texts = columns.to(tl.int64)[:, None] * width + along[None, :]
            text = tl.load(texts + of_texts, mask=(columns < n_columns)[:, None] & in_width, other=0.0)
        products = tl.dot(image.to(COMPUTE), text.to(COMPUTE).T, products, input_precision="ieee")
    return products


@triton.jit(do_not_specialize=["first_row", "first_column", "pairs"])
def log_sum_exp_kernel(
    images, texts, scale, row_parts, column_parts, positives,
    n_rows, n_columns, width, first_row, first_column, pairs,
    BULK: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Log-sum-exps of each tile's rows, [column tiles, n_rows], and columns, [row tiles, n_columns].

    positives [n_rows]: the similarities of matching pairs, where there is one.
    """
    tile_row, tile_column = tl.program_id(0), tl.program_id(1)
    row, column = tile_row * ROWS, tile_column * COLUMNS
    products = _products(
        images, texts, row, column, n_rows, n_columns, width, BULK, COMPUTE, ROWS, COLUMNS, DEPTH
    )  # fmt: skip
    similarities = products * tl.load(scale)
    # What lies outside is 0 here: it can only widen the span.
    high, low = tl.max(similarities), tl.min(similarities)
    rows, columns = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    # Of matching pair m the tile holds those from `first` to before `last`.
    first = tl.maximum(0, tl.maximum(row - first_row, column - first_column))
    last = tl.minimum(pairs, tl.minimum(row - first_row + ROWS, column - first_column + COLUMNS))
    if first < last:
        pair = rows - first_row
        matching = pair[:, None] == (columns - first_column)[None, :]
        tl.store(
            positives + rows, tl.sum(tl.where(matching, similarities, 0.0), 1), mask=(pair >= first) & (pair < last)
        )
    inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    similarities = tl.where(inside, similarities, float("-inf"))
    if high - low < NARROW:
        values = tl.exp(similarities - high)
        of_rows = tl.log(tl.sum(values, 1)) + high
        of_columns = tl.log(tl.sum(values, 0)) + high
    else:
        row_peaks, column_peaks = tl.max(similarities, 1), tl.max(similarities, 0)
        of_rows = tl.log(tl.sum(tl.exp(similarities - row_peaks[:, None]), 1)) + row_peaks
        of_columns = tl.log(tl.sum(tl.exp(similarities - column_peaks[None, :]), 0)) + column_peaks
    tl.store(row_parts + tile_column.to(tl.int64) * n_rows + rows, of_rows, mask=rows < n_rows)
    tl.store(column_parts + tile_row.to(tl.int64) * n_columns + columns, of_columns, mask=columns < n_columns)


@triton.jit
def _merge(parts, totals, n_parts, length, program, BLOCK: tl.constexpr, PARTS: tl.constexpr):
    """totals [length] <- log(exp(totals) + sum over parts [n_parts, length] of exp(part))."""
    at = program * BLOCK + tl.arange(0, BLOCK)
    inside = at < length
    peak = tl.load(totals + at, mask=inside, other=0.0)
    total = tl.full((BLOCK,), 1.0, tl.float32)
    for start in range(0, n_parts, PARTS):
        part = start + tl.arange(0, PARTS)
        places = part.to(tl.int64)[:, None] * length + at[None, :]
        values = tl.load(parts + places, mask=(part < n_parts)[:, None] & inside[None, :], other=float("-inf"))
        higher = tl.maximum(peak, tl.max(values, 0))
        # Nothing added yet, and nothing here: -inf - -inf would be nan.
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(peak - safe) + tl.sum(tl.exp(values - safe[None, :]), 0)
        peak = higher
    tl.store(totals + at, peak + tl.log(total), mask=inside)


@triton.jit
def merge_kernel(
    row_parts, column_parts, rows, columns, row_tiles, column_tiles, n_rows, n_columns,
    BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Add what `log_sum_exp_kernel` found to the log-sum-exps of rows [n_rows] and columns [n_columns], in place."""
    program = tl.program_id(0)
    programs_of_rows = tl.cdiv(n_rows, BLOCK)
    if program < programs_of_rows:
        _merge(row_parts, rows, column_tiles, n_rows, program, BLOCK, PARTS)
    else:
        _merge(column_parts, columns, row_tiles, n_columns, program - programs_of_rows, BLOCK, PARTS)


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


@triton.jit
def _not_matching(rows, columns, first_row, first_column, pairs):
    pair = rows - first_row
    partner = tl.where((pair >= 0) & (pair < pairs), pair + first_column, -1)
    return partner[:, None] != columns[None, :]


@triton.jit
def _store_gradient(gradient, values, rows, columns, n_rows, n_columns):
    places = gradient + rows.to(tl.int64)[:, None] * n_columns + columns[None, :]
    inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    tl.store(places, values.to(gradient.dtype.element_ty), mask=inside)


@triton.jit
def _add(sums, which, of_rows):
    """sums [3, programs][which, this program] += sum of_rows. Launches follow one another: nobody else writes there."""
    programs = tl.num_programs(0) * tl.num_programs(1)
    place = sums + which * programs + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
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


@triton.jit(do_not_specialize=["first_row", "first_column", "pairs"])
def softmax_gradient_kernel(
    images, texts, scale, row_totals, column_totals, gradient, sums,
    n_rows, n_columns, width, first_row, first_column, pairs, unit,
    BULK: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """unit (exp(s_ij - row_i) + exp(s_ij - column_j)), [n_rows, n_columns]; sums[1] += sum_ij G_ij image_i . text_j."""
    row, column = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    low, high = _span(row_totals + row, n_rows - row, column_totals + column, n_columns - column, ROWS, COLUMNS)
    # exp(s - row) = exp(s - low) exp(low - row), and s exceeds no total: what underflows in the first factor is zero.
    narrow = high - low < NARROW
    products = _products(
        images, texts, row, column, n_rows, n_columns, width, BULK, COMPUTE, ROWS, COLUMNS, DEPTH
    )  # fmt: skip
    rows = row + tl.arange(0, ROWS)
    of_rows = tl.load(row_totals + rows, mask=rows < n_rows, other=float("inf"))
    shares = tl.exp(low - of_rows)
    factor = tl.load(scale)
    total = tl.zeros((ROWS,), tl.float32)
    parts = _quarters(products, ROWS, COLUMNS)
    for part in tl.static_range(4):
        columns = column + part * (COLUMNS // 4) + tl.arange(0, COLUMNS // 4)
        of_columns = tl.load(column_totals + columns, mask=columns < n_columns, other=float("inf"))
        inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
        counts = inside & _not_matching(rows, columns, first_row, first_column, pairs)
        similarities = tl.where(counts, parts[part] * factor, float("-inf"))
        if narrow:
            values = tl.exp(similarities - low) * (shares[:, None] + tl.exp(low - of_columns)[None, :])
        else:
            values = tl.exp(similarities - of_rows[:, None]) + tl.exp(similarities - of_columns[None, :])
        total += tl.sum(values * parts[part], 1)
        _store_gradient(gradient, values * unit, rows, columns, n_rows, n_columns)
    _add(sums, 1, total)


@triton.jit
def _log1p(x):
    """log(1 + x) on [0, 1] to 2e-7 of itself, also where x is tiny and log2 of 1 + x would keep nothing of it.

    x times the polynomial nearest to log(1 + x) / x by the largest relative error (3e-8 before rounding): no division.
    """
    tail = -0.13663247 + x * (0.078225963 + x * (-0.029505240 + x * 0.0052326936))
    return x * (0.99999994 + x * (-0.49999493 + x * (0.33319098 + x * (-0.24842982 + x * (0.19106008 + x * tail)))))


@triton.jit(do_not_specialize=["first_row", "first_column", "pairs", "counted"])
def sigmoid_gradient_kernel(
    images, texts, scale, bias, gradient, sums,
    n_rows, n_columns, width, first_row, first_column, pairs, counted, unit,
    BULK: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """unit sigmoid(s_ij), [n_rows, n_columns].

    If counted, sums += [softplus(s_ij), sigmoid(s_ij) image_i . text_j, sigmoid(s_ij)].
    """
    row, column = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    products = _products(
        images, texts, row, column, n_rows, n_columns, width, BULK, COMPUTE, ROWS, COLUMNS, DEPTH
    )  # fmt: skip
    rows = row + tl.arange(0, ROWS)
    factor, shift = tl.load(scale), tl.load(bias)
    losses = tl.zeros((ROWS,), tl.float32)
    of_products, of_values = tl.zeros_like(losses), tl.zeros_like(losses)
    parts = _quarters(products, ROWS, COLUMNS)
    for part in tl.static_range(4):
        columns = column + part * (COLUMNS // 4) + tl.arange(0, COLUMNS // 4)
        inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
        counts = inside & _not_matching(rows, columns, first_row, first_column, pairs)
        similarities = tl.where(counts, parts[part] * factor + shift, float("-inf"))
        small = tl.exp(-tl.abs(similarities))
        # Before the values, which need the registers; of_products and of_values cost less than a branch around them.
        if counted:
            losses += tl.sum(tl.maximum(similarities, 0.0) + _log1p(small), 1)
        values = tl.where(similarities >= 0, 1.0, small) / (1.0 + small)
        of_products += tl.sum(values * parts[part], 1)
        of_values += tl.sum(values, 1)
        _store_gradient(gradient, values * unit, rows, columns, n_rows, n_columns)
    if counted:
        _add(sums, 0, losses)
        _add(sums, 1, of_products)
        _add(sums, 2, of_values)
