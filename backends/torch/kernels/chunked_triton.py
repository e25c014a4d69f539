"""Scans of outer products as Triton kernels: one loop over chunks of time, the state in registers between them.

Inside of a chunk pairs of tokens are a matrix; the state carries what came before. The backward pass is two loops, and
no state of a chunk is ever stored: one runs forward in time, where the state is, for the gradient of the queries; one
runs backward, where the adjoint of the state is, for those of keys, values and decays. A program has one head of one
sequence and a slice of the values.

The gradient of the log decay at t is the sum over all pairs of a query from t on and a key before t: a sum from the end
of what each token adds, in which pairs that are both behind t cancel. Sums of what products leave are taken of tiles
alone, also where a vector is summed: Triton 3.7 does not compile others for Blackwell.

Gates make log decays and values of tokens xs and weights ws, OUT the result of what is read, xs and ws: device
functions as in `kernels/chunked_gates.py`. Every slice computes what it needs of them; the gradients of what slices
share are added up outside, which may be done behind gates because their derivatives are linear. Without gates (None) xs
are the values and the log decays.
"""
# mypy: ignore-errors

import triton
import triton.language as tl
from kernels.chunked_gates_triton import (
    gated,
    gated_back,
    no_weights,
    over_tokens,
    starting,
    store_tokens,
    store_weights,
    summed,
    tokens,
    weights,
)


@triton.jit
def _plus(a, b):
    return a + b


@triton.jit
def _dot(a, b, DOT: tl.constexpr, PRECISION: tl.constexpr):
    return tl.dot(a.to(DOT), b.to(DOT), input_precision=PRECISION)


@triton.jit
def _add_dot(sums, a, b, DOT: tl.constexpr, PRECISION: tl.constexpr):
    return tl.dot(a.to(DOT), b.to(DOT), sums, input_precision=PRECISION, out_dtype=sums.dtype)


@triton.jit
def _decays(log, starts, PACKED: tl.constexpr, ACC: tl.constexpr, LEAST: tl.constexpr):
    """Of the log decays [Q] of a chunk: their sums, as a large and a small part; how many documents have started; the
    decay since before the chunk, until its end, and of all of it, zero across starts.

    Sums are in double precision: a difference of two single ones would lose what weak decays after strong ones leave.
    """
    log = tl.maximum(log.to(tl.float64), LEAST)
    sums = tl.associative_scan(log, 0, _plus)
    total = tl.sum(log, 0)
    high = sums.to(ACC)
    low = (sums - high.to(tl.float64)).to(ACC)
    document = 0 * starts
    enter = tl.exp(high)
    leave = tl.exp((total - sums).to(ACC))
    kept = tl.exp(total.to(ACC))
    if PACKED:
        document = tl.associative_scan(starts, 0, _plus)
        last = tl.sum(starts, 0)
        enter = tl.where(document == 0, enter, 0.0)
        leave = tl.where(document == last, leave, 0.0)
        kept = tl.where(last == 0, kept, 0.0)
    return high, low, document, enter, leave, kept


@triton.jit
def _given(dy, reads, row, r, p, left, heads, V, ACC: tl.constexpr):
    """The gradients of a chunk's results [Q, BV] and what was read, if it was kept; both begin at the head."""
    grads = _rows(dy + row * heads * V, r, heads * V, p, V, left).to(ACC)
    if reads is None:
        return grads, grads
    else:
        return grads, _rows(reads + row * heads * V, r, heads * V, p, V, left).to(ACC)


@triton.jit
def _incoming(dy, reads, x, w, row, r, p, left, heads, V, OUT_GRAD: tl.constexpr, ACC: tl.constexpr):
    """The gradients of what a chunk reads [Q, BV]."""
    if OUT_GRAD is None:
        return _rows(dy + row * heads * V, r, heads * V, p, V, left)
    else:
        grads, read = _given(dy, reads, row, r, p, left, heads, V, ACC)
        d_read, _, _ = OUT_GRAD(read, x, w, grads)
        return tl.where((r < left)[:, None] & (p < V)[None, :], d_read, 0.0)


@triton.jit
def _pair_decays(high, low, document, r, KEYS: tl.constexpr):
    """The decay of each pair [query, key], of keys up to the query in its document; KEYS: keys along the first axis."""
    if KEYS:
        ago = (high[None, :] - high[:, None]) + (low[None, :] - low[:, None])
        seen = (r[None, :] >= r[:, None]) & (document[None, :] == document[:, None])
    else:
        ago = (high[:, None] - high[None, :]) + (low[:, None] - low[None, :])
        seen = (r[:, None] >= r[None, :]) & (document[:, None] == document[None, :])
    return tl.exp(tl.where(seen, ago, float("-inf")))


@triton.jit
def _rows(pointer, r, stride, axis, size, left):
    """A tile [Q, axis] of the tokens r of a chunk, zero where there are none."""
    mask = (r < left)[:, None] & (axis < size)[None, :]
    return tl.load(pointer + r[:, None] * stride + axis[None, :], mask=mask, other=0.0)


@triton.jit
def _store_rows(pointer, r, stride, axis, size, left, tile):
    mask = (r < left)[:, None] & (axis < size)[None, :]
    tl.store(pointer + r[:, None] * stride + axis[None, :], tile.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _state(pointer, n, p, K, V, GIVEN: tl.constexpr, ACC: tl.constexpr):
    if GIVEN:
        mask = (n < K)[:, None] & (p < V)[None, :]
        return tl.load(pointer + n[:, None] * V + p[None, :], mask=mask, other=0.0).to(ACC)
    else:
        return tl.full((n.shape[0], p.shape[0]), 0.0, ACC)


@triton.jit
def _store_state(pointer, n, p, K, V, tile):
    tl.store(pointer + n[:, None] * V + p[None, :], tile, mask=(n < K)[:, None] & (p < V)[None, :])


@triton.jit
def chunked_forward(
    xs, ws, k, q, pos, state, y, last, reads, time, heads, K, V, k_heads, q_heads,
    X: tl.constexpr, W: tl.constexpr, NUMBERS: tl.constexpr, GATES: tl.constexpr, OUT: tl.constexpr,
    RAGGED: tl.constexpr, PACKED: tl.constexpr, CONTINUED: tl.constexpr, Q: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr, LEAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A grid of (V / BV, heads, B). xs: [B, T, heads, V], or [B, T, heads] where not X. ws: [heads, V] or [heads].

    k, q: [B, T, k_heads or q_heads, K]. pos: [B, T]. y: [B, T, heads, V]. state, last: [B, heads, K, V]. reads: like y,
    or None; what OUT is taken of. RAGGED: BV does not divide V.
    """
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    base = batch * time
    n, p, r = tl.arange(0, BK), tl.program_id(0) * BV + tl.arange(0, BV), tl.arange(0, Q)
    k += head // (heads // k_heads) * K
    q += head // (heads // q_heads) * K
    y += head * V
    if reads is not None:
        reads += head * V
    own = (batch * heads + head) * K * V
    if CONTINUED:
        state += own
    S = _state(state, n, p, K, V, CONTINUED, ACC)
    w = weights(ws, p, head, V, W, NUMBERS, RAGGED, ACC)
    for first in tl.range(0, time, Q, disable_licm=True):
        left = time - first
        row = base + first
        starts = starting(pos, row, first, r, left, PACKED)
        x = tokens(xs, row, r, p, left, head, heads, V, X, GATES, RAGGED, ACC)
        log, values = gated(x, w, starts, r, p, left, V, GATES, ACC)
        high, low, document, enter, leave, kept = _decays(log, starts, PACKED, ACC, LEAST)
        keys = _rows(k + row * k_heads * K, r, k_heads * K, n, K, left)
        queries = _rows(q + row * q_heads * K, r, q_heads * K, n, K, left)
        scores = _dot(queries, tl.trans(keys), DOT, PRECISION) * _pair_decays(high, low, document, r, False)
        out = _add_dot(enter[:, None] * _dot(queries, S, DOT, PRECISION), scores, values, DOT, PRECISION)
        S = _add_dot(kept * S, tl.trans(keys.to(ACC) * leave[:, None]), values, DOT, PRECISION)
        if OUT is not None:
            if reads is not None:
                _store_rows(reads + row * heads * V, r, heads * V, p, V, left, out)
            out = OUT(out, x, w)
        _store_rows(y + row * heads * V, r, heads * V, p, V, left, out)
    _store_state(last + own, n, p, K, V, S)


@triton.jit
def chunked_backward_queries(
    xs, ws, k, q, pos, state, dy, reads, dq, shares, time, heads, K, V, k_heads, q_heads,
    X: tl.constexpr, W: tl.constexpr, NUMBERS: tl.constexpr, GATES: tl.constexpr, OUT_GRAD: tl.constexpr,
    RAGGED: tl.constexpr, PACKED: tl.constexpr, CONTINUED: tl.constexpr, Q: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr, LEAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The grid and the shapes of `chunked_forward`. dq: [V / BV, B, T, heads, K].

    shares: [V / BV, B, T, heads], what queries add to the gradient of the log decay, keys being in earlier chunks.
    """
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    base = batch * time
    shift = tl.program_id(0) * tl.num_programs(2).to(tl.int64) * time
    n, p, r = tl.arange(0, BK), tl.program_id(0) * BV + tl.arange(0, BV), tl.arange(0, Q)
    k += head // (heads // k_heads) * K
    q += head // (heads // q_heads) * K
    dy += head * V
    if reads is not None:
        reads += head * V
    dq += head * K
    shares += head
    if CONTINUED:
        state += (batch * heads + head) * K * V
    S = _state(state, n, p, K, V, CONTINUED, ACC)
    w = weights(ws, p, head, V, W, NUMBERS, RAGGED, ACC)
    for first in tl.range(0, time, Q, disable_licm=True):
        left = time - first
        row = base + first
        starts = starting(pos, row, first, r, left, PACKED)
        x = tokens(xs, row, r, p, left, head, heads, V, X, GATES, RAGGED, ACC)
        log, values = gated(x, w, starts, r, p, left, V, GATES, ACC)
        high, low, document, enter, leave, kept = _decays(log, starts, PACKED, ACC, LEAST)
        keys = _rows(k + row * k_heads * K, r, k_heads * K, n, K, left)
        grads = _incoming(dy, reads, x, w, row, r, p, left, heads, V, OUT_GRAD, ACC)
        d_past = enter[:, None] * _dot(grads, tl.trans(S), DOT, PRECISION)
        queries = _rows(q + row * q_heads * K, r, q_heads * K, n, K, left).to(ACC)
        tl.store(shares + (shift + row) * heads + r * heads, tl.sum(queries * d_past, 1), mask=r < left)
        d_scores = _dot(grads, tl.trans(values), DOT, PRECISION) * _pair_decays(high, low, document, r, False)
        d_queries = _add_dot(d_past, d_scores, keys, DOT, PRECISION)
        _store_rows(dq + (shift + row) * heads * K, r, heads * K, n, K, left, d_queries)
        S = _add_dot(kept * S, tl.trans(keys.to(ACC) * leave[:, None]), values, DOT, PRECISION)


@triton.jit
def chunked_backward_keys(
    xs, ws, k, q, pos, last, dlast, dy, reads, dk, dxs, dws, dstate, shares, time, heads, K, V, k_heads, q_heads,
    X: tl.constexpr, W: tl.constexpr, NUMBERS: tl.constexpr, GATES: tl.constexpr, GATES_GRAD: tl.constexpr,
    OUT_GRAD: tl.constexpr, RAGGED: tl.constexpr, PACKED: tl.constexpr, CONTINUED: tl.constexpr, Q: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr, LEAST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The grid and the shapes of `chunked_forward`. dk: [V / BV, B, T, heads, K]. dstate: [B, heads, K, V].

    dxs, dws: like xs and ws, those without values [V / BV, B, T, heads] and [V / BV, B, heads], the others of ws
    [B, heads, V]. dlast: like last; both are read if CONTINUED. shares: those of `chunked_backward_queries`.
    """
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    base = batch * time
    shift = tl.program_id(0) * tl.num_programs(2).to(tl.int64) * time
    n, p, r = tl.arange(0, BK), tl.program_id(0) * BV + tl.arange(0, BV), tl.arange(0, Q)
    k += head // (heads // k_heads) * K
    q += head // (heads // q_heads) * K
    dy += head * V
    if reads is not None:
        reads += head * V
    dk += head * K
    shares += head
    own = (batch * heads + head) * K * V
    if CONTINUED:
        dlast += own
    E = _state(dlast, n, p, K, V, CONTINUED, ACC)
    behind = tl.full((Q,), 0.0, ACC)
    if CONTINUED:  # the last state is one more query
        behind += tl.sum(tl.sum(E * _state(last + own, n, p, K, V, True, ACC), 1), 0)
    w = weights(ws, p, head, V, W, NUMBERS, RAGGED, ACC)
    d_w = no_weights(ws, r, p, W, ACC)
    chunks = (time + Q - 1) // Q
    for passed in tl.range(0, chunks, disable_licm=True):
        first = (chunks - 1 - passed) * Q
        left = time - first
        row = base + first
        starts = starting(pos, row, first, r, left, PACKED)
        x = tokens(xs, row, r, p, left, head, heads, V, X, GATES, RAGGED, ACC)
        log, values = gated(x, w, starts, r, p, left, V, GATES, ACC)
        high, low, document, enter, leave, kept = _decays(log, starts, PACKED, ACC, LEAST)
        keys = _rows(k + row * k_heads * K, r, k_heads * K, n, K, left)
        queries = _rows(q + row * q_heads * K, r, q_heads * K, n, K, left)
        grads = _incoming(dy, reads, x, w, row, r, p, left, heads, V, OUT_GRAD, ACC)
        kept_pairs = _pair_decays(high, low, document, r, True)
        scores = _dot(keys, tl.trans(queries), DOT, PRECISION) * kept_pairs
        d_values = leave[:, None] * _dot(keys, E, DOT, PRECISION)
        share = tl.load(shares + (shift + row) * heads + r * heads, mask=r < left, other=0.0)
        share -= tl.sum(values.to(ACC) * d_values, 1)
        d_values = _add_dot(d_values, scores, grads, DOT, PRECISION)
        d_weights = _dot(values, tl.trans(grads), DOT, PRECISION)
        pairs = scores * d_weights
        share += tl.sum(pairs, 0) - tl.sum(pairs, 1)
        d_keys = leave[:, None] * _dot(values, tl.trans(E), DOT, PRECISION)
        d_keys = _add_dot(d_keys, d_weights * kept_pairs, queries, DOT, PRECISION)
        _store_rows(dk + (shift + row) * heads * K, r, heads * K, n, K, left, d_keys)
        E = _add_dot(kept * E, tl.trans(queries.to(ACC) * enter[:, None]), grads, DOT, PRECISION)
        d_log = behind + tl.sum(tl.where(r[None, :] >= r[:, None], share[None, :], 0.0), 1)
        behind += tl.sum(share[None, :] + tl.full((Q, Q), 0.0, ACC), 1)
        if PACKED:
            d_log = tl.where(starts != 0, 0.0, d_log)
        dx, dw = gated_back(x, w, starts, d_log, d_values, GATES_GRAD)
        if OUT_GRAD is not None:
            do, read = _given(dy, reads, row, r, p, left, heads, V, ACC)
            _, more, shares_of_w = OUT_GRAD(read, x, w, do)
            dx, dw = summed(dx, more), summed(dw, shares_of_w)
        store_tokens(dxs, dx, row, shift, r, p, left, head, heads, V, X, ACC)
        d_w = over_tokens(d_w, dw, r, p, left, V, W, ACC)
    _store_state(dstate + own, n, p, K, V, E)
    store_weights(dws, d_w, p, head, heads, V, W)
