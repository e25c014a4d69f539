"""Attention with composed heads as Triton kernels, forward: the normalisers of all queries, then the values.

A program has a block of queries of one sequence and goes over the blocks of keys that any of them sees. A tile of pairs
is [heads, keys, queries], with all heads, for a composition mixes them. The tokens of a program come last: of a product
of matrices that axis may be as small as 8, the others may not, and what is summed for each of many tokens fills the
registers. What is mixed behind the softmax must be normalised before, so one pass finds the logarithm of each
normaliser, another computes the pairs again and their sums. Compositions come in as device functions of a tile, the
planes of tokens on either side, and weights.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no stars in tuples)

import triton
import triton.language as tl

LOWEST = tl.constexpr(-1e30)  # of scores that no query sees; finite, so that differences are


@triton.jit
def add_dot(sums, a, b, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """The matrix products of each head, added up."""
    return tl.dot(a.to(DOT), b.to(DOT), sums, input_precision=PRECISION, out_dtype=sums.dtype)


@triton.jit
def planes(tokens, row, r, h, left, H: tl.constexpr, PLANES: tl.constexpr):
    """Where all planes of the tokens r lie, of which `left` are there, counted from a row: for `plane` in device.py.

    tokens: [rows, planes, heads or 1] each, whose planes are [heads or 1, 1, keys] or alike. PLANES: three numbers of
    each, how many planes, heads or 1, and planes of those before. For tokens behind the last: see `read`.
    """
    return _places(tokens, row, tl.minimum(r, left - 1), None, h, H, PLANES)


@triton.jit
def places(tokens, row, r, h, left, H: tl.constexpr, PLANES: tl.constexpr):
    """As `planes`, where to write."""
    return _places(tokens, row, r, r < left, h, H, PLANES)


@triton.jit
def _places(tokens, row, r, there, h, H: tl.constexpr, PLANES: tl.constexpr):
    found = ()
    for i in tl.static_range(len(tokens)):
        for p in tl.static_range(tl.constexpr(PLANES[3 * i])):
            at = (
                tokens[i]
                + row * (PLANES[3 * i] * PLANES[3 * i + 1])
                + r * (PLANES[3 * i] * PLANES[3 * i + 1])
                + p * PLANES[3 * i + 1]
            )
            if PLANES[3 * i + 1] == 1:
                found = found + ((at, there),)
            elif h.shape[0] == H:
                found = found + ((at + h, there),)
            elif there is None:
                found = found + ((at + h, h < H),)
            else:
                found = found + ((at + h, there & (h < H)),)
    return found


@triton.jit
def constants(
    weights, h, H: tl.constexpr, HP: tl.constexpr, PLANES: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr
):
    """All planes [heads or 1, 1, 1] and matrices [heads, heads] of weights. A matrix has 0 planes."""
    found = ()
    for i in tl.static_range(len(weights)):
        if PLANES[3 * i] == 0:
            g = tl.arange(0, HP)
            inside = (g < H)[:, None] & (g < H)[None, :]
            matrix = tl.load(weights[i] + g[:, None] * H + g[None, :], mask=inside, other=0.0)
            found = found + (matrix.to(DOT),)
        for p in tl.static_range(tl.constexpr(PLANES[3 * i])):
            if PLANES[3 * i + 1] == 1:
                found = found + (tl.load(weights[i] + p + h * 0).to(ACC),)
            else:
                found = found + (tl.load(weights[i] + p * H + h, mask=h < H, other=0.0).to(ACC),)
    return found


@triton.jit
def read(x, r, h, d, left, H: tl.constexpr, D: tl.constexpr, EVEN: tl.constexpr):
    """Numbers d of the heads h of rows r of x [rows, heads, D], each along an axis; EVEN: that no d is beyond D.

    Of rows behind the last of `left` it is the last, for what comes of them is used by nobody: to leave loads out, the
    registers must be set to zero before, which was one instruction of a loop in ten.
    """
    at = x + tl.minimum(r, left - 1) * (H * D) + h * D + d
    if EVEN and h.shape[0] == H:
        return tl.load(at)
    else:
        return tl.load(at, mask=(h < H) & (d < D), other=0.0)


@triton.jit
def products(
    a, b, a_left, b_left, HP: tl.constexpr, R: tl.constexpr, C: tl.constexpr, H: tl.constexpr, D: tl.constexpr,
    SLICE: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`a . b` of every head [heads, R, C], of rows a [R, heads, D] and b [C, heads, D], a slice of D at a time."""
    h = tl.arange(0, HP)[:, None, None]
    r = tl.arange(0, R)[None, :, None]
    c = tl.arange(0, C)[None, None, :]
    sums = tl.zeros((HP, R, C), ACC)
    for first in tl.static_range(0, D, SLICE):
        d = first + tl.arange(0, SLICE)
        left = read(a, r, h, d[None, None, :], a_left, H, D, D % SLICE == 0)
        right = read(b, c, h, d[None, :, None], b_left, H, D, D % SLICE == 0)
        sums = add_dot(sums, left, right, DOT, PRECISION)
    return sums


@triton.jit
def columns(x, r, h, first, left, WIDTH: tl.constexpr, H: tl.constexpr, D: tl.constexpr, EVEN: tl.constexpr = False):
    """A tile [heads, rows, WIDTH] of columns of x [rows, heads, D]; r, h: rows and heads along their axes."""
    return read(x, r, h, first + tl.arange(0, WIDTH)[None, None, :], left, H, D, EVEN)


@triton.jit
def empty_columns(HP: tl.constexpr, R: tl.constexpr, WIDTHS: tl.constexpr, ACC: tl.constexpr):
    """Sums [heads, width, R] for each of the widths, zero."""
    sums = ()
    for i in tl.static_range(len(WIDTHS)):
        sums = sums + (tl.zeros((HP, tl.constexpr(WIDTHS[i]), R), ACC),)
    return sums


@triton.jit
def add_columns(
    sums, pairs, x, r, h, first, left, WIDTHS: tl.constexpr, COLUMNS: tl.constexpr, H: tl.constexpr, D: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The sums with `x^T @ pairs` of every head added, for the columns of x [rows, heads, D] from `first` on.

    pairs: [heads, rows, tokens of the program].
    """
    found = ()
    for i in tl.static_range(len(WIDTHS)):
        part = tl.trans(columns(x, r, h, first, left, WIDTHS[i], H, D, D % COLUMNS == 0), (0, 2, 1))
        found = found + (add_dot(sums[i], part, pairs, DOT, PRECISION),)
        first += WIDTHS[i]
    return found


@triton.jit
def store_columns(y, sums, r, h, first, left, WIDTHS: tl.constexpr, H: tl.constexpr, D: tl.constexpr):
    """Writes the sums [heads, width, rows] to the columns of y [rows, heads, D] from `first` on."""
    for i in tl.static_range(len(WIDTHS)):
        d = first + tl.arange(0, WIDTHS[i])[None, :, None]
        at = y + r * (H * D) + h * D + d
        tl.store(at, sums[i].to(y.dtype.element_ty), mask=(r < left) & (h < H) & (d < D))
        first += WIDTHS[i]


@triton.jit
def mixed(a, qs, ks, ws, MIX: tl.constexpr):
    """The pairs composed; without a composition as they are."""
    if MIX is None:
        return a
    else:
        return MIX(a, qs, ks, ws)


@triton.jit
def positions(pos, row, r, left, PACKED: tl.constexpr):
    """Where the queries r stand in their documents; padding, and what is no query, before the first of all keys."""
    if PACKED:
        return tl.load(pos + row + r, mask=r < left, other=-1).to(tl.int32)
    else:
        return tl.where(r < left, 0x7FFFFFFF, -1)


@triton.jit
def seen(q_at, k_at, place, count, WINDOW):
    """Which keys each query sees: those of its document up to itself, WINDOW at most, and `count` there are."""
    distance = q_at - k_at
    return (distance >= 0) & (distance <= place) & (distance < WINDOW) & (k_at < count)


@triton.jit
def first_key(q_at, place, lowest, WINDOW):
    """The first key that any of the queries at q_at sees."""
    back = tl.minimum(tl.minimum(place, WINDOW - 1), q_at)
    return tl.min(tl.min(tl.min(tl.where(place < 0, lowest, q_at - back), 2), 1), 0)


@triton.jit
def normalised(s, lse, inside):
    """The softmax of scores whose normalisers are known, zero where nothing is seen."""
    return tl.where(inside, tl.exp(s - lse), 0.0)


@triton.jit
def query_block(T, BQ: tl.constexpr):
    """The first query of this program, the longest rows first, and the row of its sequence in 64 bits."""
    q0 = (tl.num_programs(0) - 1 - tl.program_id(0)) * BQ
    return q0, tl.program_id(2).to(tl.int64) * T + q0


@triton.jit
def again(row, step, KEEP: tl.constexpr = False):
    """The row, and unless it is to KEEP, so that the compiler loads what is there in every step of a loop.

    It would hoist the loads and fill the registers. step: never negative, which the compiler does not know.
    """
    if KEEP:
        return row
    else:
        return row + tl.minimum(step, 0)


@triton.jit
def composed_normalisers(
    q, k, q_tokens, k_tokens, weights, pos, lse, T, S, WINDOW,
    BEFORE: tl.constexpr, BEFORE_Q: tl.constexpr, BEFORE_K: tl.constexpr, BEFORE_W: tl.constexpr,
    AFTER: tl.constexpr, AFTER_Q: tl.constexpr, AFTER_K: tl.constexpr, AFTER_W: tl.constexpr, PACKED: tl.constexpr,
    SCALE: tl.constexpr, H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, HP: tl.constexpr, BQ: tl.constexpr,
    BK: tl.constexpr, SLICE: tl.constexpr, WIDTHS: tl.constexpr, COLUMNS: tl.constexpr, KEEP_ROWS: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The logarithm of the sum of exponentials of composed scores, lse [B, H, T]; 0 for a query without keys.

    A grid of (T / BQ, 1, B). q: [B, T, H, D]. k: [B, S, H, D], the last T of the keys being those of the queries.
    Tokens and weights are those of BEFORE, and BEFORE_Q, _K and _W tell their planes. pos: [B, T] if PACKED.
    """
    q0, row = query_block(T, BQ)
    h = tl.arange(0, HP)[:, None, None]
    r = tl.arange(0, BQ)[None, None, :]
    c = tl.arange(0, BK)[None, :, None]
    left = T - q0
    place = positions(pos, row, r, left, PACKED)
    q_at = S - T + q0 + r
    end = tl.minimum(S - T + q0 + BQ, S)
    ws = constants(weights, h, H, HP, BEFORE_W, DOT, ACC)
    top = tl.full((HP, 1, BQ), LOWEST, ACC)
    total = tl.zeros((HP, 1, BQ), ACC)
    for k0 in tl.range(first_key(q_at, place, end, WINDOW), end, BK, disable_licm=True):
        k_row = tl.program_id(2).to(tl.int64) * S + k0
        here = again(row, k0)
        qs = planes(q_tokens, here, r, h, left, H, BEFORE_Q)
        ks = planes(k_tokens, k_row, c, h, S - k0, H, BEFORE_K)
        rows = q + again(row, k0, KEEP_ROWS) * (H * D)
        s = products(k + k_row * (H * D), rows, S - k0, left, HP, BK, BQ, H, D, SLICE, DOT, ACC, PRECISION)
        s = mixed(s * SCALE, qs, ks, ws, BEFORE)
        inside = seen(q_at, k0 + c, place, S, WINDOW)
        s = tl.where(inside, s, LOWEST)
        higher = tl.maximum(top, tl.max(s, 1, keep_dims=True))
        fresh = tl.where(inside, tl.exp(s - higher), 0.0)
        total = total * tl.exp(top - higher) + tl.sum(fresh, 1, keep_dims=True)
        top = higher
    found = tl.where(total > 0, top + tl.log(tl.where(total > 0, total, 1.0)), 0.0)
    tl.store(lse + tl.program_id(2).to(tl.int64) * H * T + q0 + h * T + r, found, mask=(r < left) & (h < H))


@triton.jit
def composed_values(
    q, k, v, q_tokens, k_tokens, weights, q_after, k_after, w_after, pos, lse, y, T, S, WINDOW,
    BEFORE: tl.constexpr, BEFORE_Q: tl.constexpr, BEFORE_K: tl.constexpr, BEFORE_W: tl.constexpr,
    AFTER: tl.constexpr, AFTER_Q: tl.constexpr, AFTER_K: tl.constexpr, AFTER_W: tl.constexpr, PACKED: tl.constexpr,
    SCALE: tl.constexpr, H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, HP: tl.constexpr, BQ: tl.constexpr,
    BK: tl.constexpr, SLICE: tl.constexpr, WIDTHS: tl.constexpr, COLUMNS: tl.constexpr, KEEP_ROWS: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The sums of values y [B, T, H, E]. A grid of (T / BQ, E / COLUMNS, B), COLUMNS being the sum of WIDTHS.

    As `composed_normalisers`, with their lse [B, H, T], v [B, S, H, E] and a composition AFTER.
    """
    q0, row = query_block(T, BQ)
    h = tl.arange(0, HP)[:, None, None]
    r = tl.arange(0, BQ)[None, None, :]
    c = tl.arange(0, BK)[None, :, None]
    e = tl.program_id(1) * COLUMNS
    left = T - q0
    place = positions(pos, row, r, left, PACKED)
    q_at = S - T + q0 + r
    end = tl.minimum(S - T + q0 + BQ, S)
    ws = constants(weights, h, H, HP, BEFORE_W, DOT, ACC)
    ws_after = constants(w_after, h, H, HP, AFTER_W, DOT, ACC)
    at = lse + tl.program_id(2).to(tl.int64) * H * T + q0 + h * T + r
    sums = empty_columns(HP, BQ, WIDTHS, ACC)
    for k0 in tl.range(first_key(q_at, place, end, WINDOW), end, BK, disable_licm=True):
        k_row = tl.program_id(2).to(tl.int64) * S + k0
        here = again(row, k0)
        qs = planes(q_tokens, here, r, h, left, H, BEFORE_Q)
        ks = planes(k_tokens, k_row, c, h, S - k0, H, BEFORE_K)
        rows = q + again(row, k0, KEEP_ROWS) * (H * D)
        s = products(k + k_row * (H * D), rows, S - k0, left, HP, BK, BQ, H, D, SLICE, DOT, ACC, PRECISION)
        s = mixed(s * SCALE, qs, ks, ws, BEFORE)
        norm = tl.load(at + (here - row), mask=(r < left) & (h < H), other=0.0)
        p = normalised(s, norm, seen(q_at, k0 + c, place, S, WINDOW) & (h < H))
        qs = planes(q_after, here, r, h, left, H, AFTER_Q)
        ks = planes(k_after, k_row, c, h, S - k0, H, AFTER_K)
        p = mixed(p, qs, ks, ws_after, AFTER)
        values = v + k_row * (H * E)
        sums = add_columns(sums, p, values, c, h, e, S - k0, WIDTHS, COLUMNS, H, E, DOT, PRECISION)
    store_columns(y + row * (H * E), sums, r, h, e, left, WIDTHS, H, E)
