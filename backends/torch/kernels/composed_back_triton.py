"""Attention with composed heads as Triton kernels, backward: four passes that compute the pairs again.

With P the weights and dP' = dy . v the gradient of the composed ones, after_grad gives dP, scores get P (dP - delta)
where delta is the sum over keys of P dP for every head and query, and of that before_grad makes the gradient of q . k.
Two passes go over the keys of a block of queries: one finds delta and what tokens of queries and weights get of the
composition behind the softmax, the next, which needs delta, dq and what the other composition gives. Two go over the
queries of a block of keys in the same way, for dv and for dk; their tiles are [heads, queries, keys]. Every sum has one
program, so results are the same from run to run.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no stars in tuples)

import triton
import triton.language as tl
from kernels.composed_triton import (
    add_columns,
    again,
    constants,
    empty_columns,
    first_key,
    mixed,
    normalised,
    places,
    planes,
    positions,
    products,
    query_block,
    seen,
    store_columns,
)


@triton.jit
def mixed_back(a, qs, ks, ws, d, GRAD: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """The gradients of pairs, planes and weights of a composition, of pairs with these axes."""
    if GRAD is None:
        return d, (), (), ()
    else:
        return GRAD(a, qs, ks, ws, d, QUERIES, KEYS)


@triton.jit
def empty_planes(HP: tl.constexpr, R: tl.constexpr, C: tl.constexpr, PLANES: tl.constexpr, ACC: tl.constexpr):
    """A zero for each plane [heads or 1, R, C], or matrix [heads, heads]."""
    found = ()
    for i in tl.static_range(len(PLANES) // 3):
        if PLANES[3 * i] == 0:
            found = found + (tl.zeros((HP, HP), ACC),)
        for _ in tl.static_range(tl.constexpr(PLANES[3 * i])):
            found = found + (tl.zeros((HP if tl.constexpr(PLANES[3 * i + 1]) > 1 else 1, R, C), ACC),)
    return found


@triton.jit
def add_planes(sums, shares):
    """One tuple of tiles added to another."""
    found = ()
    for i in tl.static_range(len(sums)):
        found = found + (sums[i] + shares[i],)
    return found


@triton.jit
def store_planes(tokens, sums, row, r, h, left, H: tl.constexpr, PLANES: tl.constexpr):
    """Writes what `planes` reads: of the tokens r, of which `left` are there."""
    found = places(tokens, row, r, h, left, H, PLANES)
    for i in tl.static_range(len(found)):
        at, there = found[i]
        tl.store(at, sums[i].to(at.dtype.element_ty), mask=there)


@triton.jit
def store_constants(weights, sums, row, h, some, H: tl.constexpr, HP: tl.constexpr, PLANES: tl.constexpr):
    """Writes what `constants` reads, as a program's row of [programs, planes, heads or 1] or [programs, H, H]."""
    for i in tl.static_range(len(weights)):
        if PLANES[3 * i] == 0:
            g = tl.arange(0, HP)
            inside = (g < H)[:, None] & (g < H)[None, :] & some
            tl.store(weights[i] + row * (H * H) + g[:, None] * H + g[None, :], sums[PLANES[3 * i + 2]], mask=inside)
        for p in tl.static_range(tl.constexpr(PLANES[3 * i])):
            at = weights[i] + row * (PLANES[3 * i] * PLANES[3 * i + 1]) + p * PLANES[3 * i + 1]
            if PLANES[3 * i + 1] == 1:
                tl.store(at + h * 0, sums[PLANES[3 * i + 2] + p] + h * 0, mask=(h == 0) & some)
            else:
                tl.store(at + h, sums[PLANES[3 * i + 2] + p], mask=(h < H) & some)


@triton.jit
def queries_of(ends, k0, T, S, WINDOW, PACKED: tl.constexpr, BK: tl.constexpr):
    """The first query that sees any of the keys of this program, from k0 on, and one behind the last.

    ends: [B, S / BK] if PACKED, the first query whose document begins behind the keys.
    """
    end = tl.minimum(T, T - S + k0 + BK - 1 + tl.minimum(WINDOW, S))
    if PACKED:
        batch = tl.program_id(2).to(tl.int64)
        end = tl.minimum(end, tl.load(ends + batch * tl.num_programs(0) + tl.program_id(0)))
    return tl.maximum(T - S + k0, 0), end


@triton.jit
def pairs_again(
    x, y, qs, ks, ws, norm, inside, x_left, y_left, MIX: tl.constexpr, SCALE: tl.constexpr,
    H: tl.constexpr, D: tl.constexpr, HP: tl.constexpr, R: tl.constexpr, C: tl.constexpr, SLICE: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores [heads, R, C] before they are composed, and weights; x, y: queries and keys, those of the program last."""
    a = SCALE * products(x, y, x_left, y_left, HP, R, C, H, D, SLICE, DOT, ACC, PRECISION)
    return a, normalised(mixed(a, qs, ks, ws, MIX), norm, inside)


@triton.jit
def weights_back(
    p, x, y, qs, ks, ws, inside, x_left, y_left, GRAD: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    H: tl.constexpr, E: tl.constexpr, HP: tl.constexpr, R: tl.constexpr, C: tl.constexpr, SLICE: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of weights, and of what they are composed with; where nothing is seen there is none.

    x, y: gradients of y, and values, those of the program last.
    """
    d = products(x, y, x_left, y_left, HP, R, C, H, E, SLICE, DOT, ACC, PRECISION)
    d, of_q, of_k, of_w = mixed_back(p, qs, ks, ws, tl.where(inside, d, 0.0), GRAD, QUERIES, KEYS)
    return tl.where(inside, d, 0.0), of_q, of_k, of_w


@triton.jit
def composed_back_queries(
    q, k, v, dy, q_tokens, k_tokens, weights, q_after, k_after, w_after, pos, lse, delta, dq, q_shares, w_shares,
    T, S, WINDOW,
    BEFORE: tl.constexpr, BEFORE_Q: tl.constexpr, BEFORE_K: tl.constexpr, BEFORE_W: tl.constexpr,
    AFTER: tl.constexpr, AFTER_Q: tl.constexpr, AFTER_K: tl.constexpr, AFTER_W: tl.constexpr, PACKED: tl.constexpr,
    SCALE: tl.constexpr, H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, HP: tl.constexpr, BQ: tl.constexpr,
    BK: tl.constexpr, SLICE: tl.constexpr, WIDTHS: tl.constexpr, COLUMNS: tl.constexpr, KEEP_ROWS: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
    LAST: tl.constexpr, AHEAD: tl.constexpr, BEFORE_GRAD: tl.constexpr, AFTER_GRAD: tl.constexpr,
):  # fmt: skip
    """See `composed_values`; dy is like y, and delta like lse.

    First delta, and gradients of q_after and w_after. If LAST, given delta, dq on a grid of (T / BQ, D / COLUMNS, B),
    and gradients of q_tokens and weights. w_shares: [programs, planes, heads or 1] or [programs, H, H] each. AHEAD:
    that the gradients of weights are all that is wanted of them, and need none: they are found before the weights,
    while registers need not hold both.
    """
    q0, row = query_block(T, BQ)
    h = tl.arange(0, HP)[:, None, None]
    r = tl.arange(0, BQ)[None, None, :]
    c = tl.arange(0, BK)[None, :, None]
    first = tl.program_id(1) * COLUMNS
    left = T - q0
    place = positions(pos, row, r, left, PACKED)
    q_at = S - T + q0 + r
    end = tl.minimum(S - T + q0 + BQ, S)
    ws = constants(weights, h, H, HP, BEFORE_W, DOT, ACC)
    ws_after = constants(w_after, h, H, HP, AFTER_W, DOT, ACC)
    at = tl.program_id(2).to(tl.int64) * H * T + q0 + h * T + r
    mean = tl.zeros((HP, 1, BQ), ACC)
    if LAST:
        sums = empty_columns(HP, BQ, WIDTHS, ACC)
        of_queries = empty_planes(HP, 1, BQ, BEFORE_Q, ACC)
        of_weights = empty_planes(HP, 1, 1, BEFORE_W, ACC)
    else:
        of_queries = empty_planes(HP, 1, BQ, AFTER_Q, ACC)
        of_weights = empty_planes(HP, 1, 1, AFTER_W, ACC)
    for step in tl.range(first_key(q_at, place, end, WINDOW), end, BK, disable_licm=True):
        k0 = tl.maximum(step, 0)  # as it is, but no address is counted up from step to step in registers of its own
        k_row = tl.program_id(2).to(tl.int64) * S + k0
        k_left = S - k0
        inside = seen(q_at, k0 + c, place, S, WINDOW) & (h < H)
        here = again(row, k0)
        rows = again(row, k0, KEEP_ROWS)
        norm = tl.load(lse + at + (here - row), mask=(r < left) & (h < H), other=0.0)
        qs = planes(q_tokens, here, r, h, left, H, BEFORE_Q)
        ks = planes(k_tokens, k_row, c, h, k_left, H, BEFORE_K)
        keys = k + k_row * (H * D)
        p = tl.zeros((HP, BK, BQ), ACC)
        if not AHEAD:
            a, p = pairs_again(
                keys, q + rows * (H * D), qs, ks, ws, norm, inside, k_left, left, BEFORE,
                SCALE, H, D, HP, BK, BQ, SLICE, DOT, ACC, PRECISION,
            )  # fmt: skip
        d, of_q, _, of_w = weights_back(
            p, v + k_row * (H * E), dy + rows * (H * E),
            planes(q_after, here, r, h, left, H, AFTER_Q),
            planes(k_after, k_row, c, h, k_left, H, AFTER_K),
            ws_after, inside, k_left, left, AFTER_GRAD, 2, 1, H, E, HP, BK, BQ, SLICE, DOT, ACC, PRECISION,
        )  # fmt: skip
        if AHEAD:
            a, p = pairs_again(
                keys, q + rows * (H * D), qs, ks, ws, norm, inside, k_left, left, BEFORE,
                SCALE, H, D, HP, BK, BQ, SLICE, DOT, ACC, PRECISION,
            )  # fmt: skip
        if LAST:
            mean = tl.load(delta + at + (here - row), mask=(r < left) & (h < H), other=0.0)
            qs = planes(q_tokens, again(row, k0 + BK), r, h, left, H, BEFORE_Q)
            ks = planes(k_tokens, again(k_row, k0 + BK), c, h, k_left, H, BEFORE_K)
            d, of_q, _, of_w = mixed_back(a, qs, ks, ws, p * (d - mean), BEFORE_GRAD, 2, 1)
            sums = add_columns(sums, d * SCALE, keys, c, h, first, k_left, WIDTHS, COLUMNS, H, D, DOT, PRECISION)
        else:
            mean += tl.sum(p * d, 1, keep_dims=True)
        of_queries = add_planes(of_queries, of_q)
        of_weights = add_planes(of_weights, of_w)
    program = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    once = tl.program_id(1) == 0
    if LAST:
        store_columns(dq + row * (H * D), sums, r, h, first, left, WIDTHS, H, D)
        store_planes(q_shares, of_queries, row, r, h, tl.where(once, left, 0), H, BEFORE_Q)
        store_constants(w_shares, of_weights, program, h, once, H, HP, BEFORE_W)
    else:
        tl.store(delta + at, mean, mask=(r < left) & (h < H))
        store_planes(q_shares, of_queries, row, r, h, left, H, AFTER_Q)
        store_constants(w_shares, of_weights, program, h, once, H, HP, AFTER_W)


@triton.jit
def composed_back_keys(
    q, k, v, dy, q_tokens, k_tokens, weights, q_after, k_after, w_after, pos, ends, lse, delta, dx, k_shares,
    T, S, WINDOW,
    BEFORE: tl.constexpr, BEFORE_Q: tl.constexpr, BEFORE_K: tl.constexpr, BEFORE_W: tl.constexpr,
    AFTER: tl.constexpr, AFTER_Q: tl.constexpr, AFTER_K: tl.constexpr, AFTER_W: tl.constexpr, PACKED: tl.constexpr,
    SCALE: tl.constexpr, H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, HP: tl.constexpr, BQ: tl.constexpr,
    BK: tl.constexpr, SLICE: tl.constexpr, WIDTHS: tl.constexpr, COLUMNS: tl.constexpr, KEEP_ROWS: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
    LAST: tl.constexpr, AHEAD: tl.constexpr, BEFORE_GRAD: tl.constexpr, AFTER_GRAD: tl.constexpr,
):  # fmt: skip
    """dx, the gradient of the values, and that of k_after; if LAST, of the keys, and that of k_tokens.

    A grid of (S / BK, columns of dx / COLUMNS, B); else see `composed_back_queries`. ends: see `queries_of`.
    """
    k0 = tl.program_id(0) * BK
    batch = tl.program_id(2).to(tl.int64)
    k_row = batch * S + k0
    h = tl.arange(0, HP)[:, None, None]
    r = tl.arange(0, BQ)[None, :, None]
    c = tl.arange(0, BK)[None, None, :]
    first = tl.program_id(1) * COLUMNS
    k_left = S - k0
    ws = constants(weights, h, H, HP, BEFORE_W, DOT, ACC)
    ws_after = constants(w_after, h, H, HP, AFTER_W, DOT, ACC)
    sums = empty_columns(HP, BK, WIDTHS, ACC)
    if LAST:
        of_keys = empty_planes(HP, 1, BK, BEFORE_K, ACC)
    else:
        of_keys = empty_planes(HP, 1, BK, AFTER_K, ACC)
    start, end = queries_of(ends, k0, T, S, WINDOW, PACKED, BK)
    for step in tl.range(start, end, BQ, disable_licm=True):
        q0 = tl.maximum(step, 0)  # see above
        row = batch * T + q0
        left = T - q0
        place = positions(pos, row, r, left, PACKED)
        inside = seen(S - T + q0 + r, k0 + c, place, S, WINDOW) & (h < H)
        at = batch * H * T + q0 + h * T + r
        norm = tl.load(lse + at, mask=(r < left) & (h < H), other=0.0)
        here = again(k_row, q0)
        k_rows = again(k_row, q0, KEEP_ROWS)
        qs = planes(q_tokens, row, r, h, left, H, BEFORE_Q)
        ks = planes(k_tokens, here, c, h, k_left, H, BEFORE_K)
        p = tl.zeros((HP, BQ, BK), ACC)
        if not AHEAD:
            a, p = pairs_again(
                q + row * (H * D), k + k_rows * (H * D), qs, ks, ws, norm, inside, left, k_left, BEFORE,
                SCALE, H, D, HP, BQ, BK, SLICE, DOT, ACC, PRECISION,
            )  # fmt: skip
        qs_after = planes(q_after, row, r, h, left, H, AFTER_Q)
        ks_after = planes(k_after, here, c, h, k_left, H, AFTER_K)
        d, _, of_k, _ = weights_back(
            p, dy + row * (H * E), v + k_rows * (H * E), qs_after, ks_after, ws_after, inside, left, k_left,
            AFTER_GRAD, 1, 2, H, E, HP, BQ, BK, SLICE, DOT, ACC, PRECISION,
        )  # fmt: skip
        if AHEAD:
            a, p = pairs_again(
                q + row * (H * D), k + k_rows * (H * D), qs, ks, ws, norm, inside, left, k_left, BEFORE,
                SCALE, H, D, HP, BQ, BK, SLICE, DOT, ACC, PRECISION,
            )  # fmt: skip
        if LAST:
            mean = tl.load(delta + at, mask=(r < left) & (h < H), other=0.0)
            qs = planes(q_tokens, again(row, q0 + BQ), r, h, left, H, BEFORE_Q)
            ks = planes(k_tokens, again(k_row, q0 + BQ), c, h, k_left, H, BEFORE_K)
            d, _, of_k, _ = mixed_back(a, qs, ks, ws, p * (d - mean), BEFORE_GRAD, 1, 2)
            pairs = d * SCALE
            sums = add_columns(sums, pairs, q + row * (H * D), r, h, first, left, WIDTHS, COLUMNS, H, D, DOT, PRECISION)
        else:
            pairs = mixed(p, qs_after, ks_after, ws_after, AFTER)
            rows = dy + row * (H * E)
            sums = add_columns(sums, pairs, rows, r, h, first, left, WIDTHS, COLUMNS, H, E, DOT, PRECISION)
        of_keys = add_planes(of_keys, of_k)
    k_left_once = tl.where(tl.program_id(1) == 0, k_left, 0)
    if LAST:
        store_columns(dx + k_row * (H * D), sums, c, h, first, k_left, WIDTHS, H, D)
        store_planes(k_shares, of_keys, k_row, c, h, k_left_once, H, BEFORE_K)
    else:
        store_columns(dx + k_row * (H * E), sums, c, h, first, k_left, WIDTHS, H, E)
        store_planes(k_shares, of_keys, k_row, c, h, k_left_once, H, AFTER_K)
