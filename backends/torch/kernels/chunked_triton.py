"""Scans of outer products as Triton kernels: one loop over chunks of time, the state in registers between them.

Inside of a chunk pairs of tokens are a matrix; the state carries what came before. The backward pass is two loops, and
no state of a chunk is ever stored: one runs forward in time, where the state is, for the gradient of the queries; one
runs backward, where the adjoint of the state is, for those of keys and values. A program has one head of one sequence
and a slice of the values. The gradient of the log decay at t is the sum over all pairs of a query from t on and a key
before t; it is left as what each token adds to a sum from the end, in which pairs that are both behind t cancel.
"""
# mypy: ignore-errors

import triton
import triton.language as tl


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
def _decays(log_a, pos, r, left, heads, PACKED: tl.constexpr, ACC: tl.constexpr, LEAST: tl.constexpr):
    """Of the tokens r [Q] of a chunk, of which `left` are there: sums of log decays, as a large and a small part; how
    many documents have started; the decay since before the chunk, until its end, and of all of it, zero across starts.

    Sums are in double precision: a difference of two single ones would lose what weak decays after strong ones leave.
    """
    inside = r < left
    log = tl.maximum(tl.load(log_a + r * heads, mask=inside, other=0.0).to(tl.float64), LEAST)
    sums = tl.associative_scan(log, 0, _plus)
    total = tl.sum(log, 0)
    high = sums.to(ACC)
    low = (sums - high.to(tl.float64)).to(ACC)
    document = 0 * r
    enter = tl.exp(high)
    leave = tl.exp((total - sums).to(ACC))
    kept = tl.exp(total.to(ACC))
    if PACKED:
        starts = (tl.load(pos + r, mask=inside, other=1) == 0).to(tl.int32)
        document = tl.associative_scan(starts, 0, _plus)
        last = tl.sum(starts, 0)
        enter = tl.where(document == 0, enter, 0.0)
        leave = tl.where(document == last, leave, 0.0)
        kept = tl.where(last == 0, kept, 0.0)
    return high, low, document, enter, leave, kept


@triton.jit
def _at(pos, row, PACKED: tl.constexpr):
    if PACKED:
        return pos + row
    else:
        return pos


@triton.jit
def _weights(high, low, document, r, KEYS: tl.constexpr):
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
    log_a, k, v, q, pos, state, y, last, time, heads, K, V, k_heads, q_heads,
    PACKED: tl.constexpr, CONTINUED: tl.constexpr, Q: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, LEAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A grid of (V / BV, heads, B). log_a: [B, T, heads]. k, q: [B, T, k_heads or q_heads, K]. v, y: [B, T, heads, V].

    pos: [B, T]. state, last: [B, heads, K, V].
    """
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    base = batch * time
    n, p, r = tl.arange(0, BK), tl.program_id(0) * BV + tl.arange(0, BV), tl.arange(0, Q)
    log_a += head
    k += head // (heads // k_heads) * K
    q += head // (heads // q_heads) * K
    v += head * V
    y += head * V
    own = (batch * heads + head) * K * V
    if CONTINUED:
        state += own
    S = _state(state, n, p, K, V, CONTINUED, ACC)
    for first in tl.range(0, time, Q, disable_licm=True):
        left = time - first
        row = base + first
        high, low, document, enter, leave, kept = _decays(
            log_a + row * heads, _at(pos, row, PACKED), r, left, heads, PACKED, ACC, LEAST
        )
        keys = _rows(k + row * k_heads * K, r, k_heads * K, n, K, left)
        queries = _rows(q + row * q_heads * K, r, q_heads * K, n, K, left)
        values = _rows(v + row * heads * V, r, heads * V, p, V, left)
        scores = _dot(queries, tl.trans(keys), DOT, PRECISION) * _weights(high, low, document, r, False)
        out = _add_dot(enter[:, None] * _dot(queries, S, DOT, PRECISION), scores, values, DOT, PRECISION)
        S = _add_dot(kept * S, tl.trans(keys.to(ACC) * leave[:, None]), values, DOT, PRECISION)
        _store_rows(y + row * heads * V, r, heads * V, p, V, left, out)
    _store_state(last + own, n, p, K, V, S)


@triton.jit
def chunked_backward_queries(
    log_a, k, v, q, pos, state, dy, dq, shares, time, heads, K, V, k_heads, q_heads,
    PACKED: tl.constexpr, CONTINUED: tl.constexpr, Q: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, LEAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The grid of `chunked_forward`. dq: [V / BV, B, T, heads, K].

    shares: [V / BV, B, T, heads], what queries add to the gradient of the log decay, keys being in earlier chunks.
    """
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    base = batch * time
    shift = tl.program_id(0) * tl.num_programs(2).to(tl.int64) * time
    n, p, r = tl.arange(0, BK), tl.program_id(0) * BV + tl.arange(0, BV), tl.arange(0, Q)
    log_a += head
    k += head // (heads // k_heads) * K
    q += head // (heads // q_heads) * K
    v += head * V
    dy += head * V
    dq += head * K
    shares += head
    if CONTINUED:
        state += (batch * heads + head) * K * V
    S = _state(state, n, p, K, V, CONTINUED, ACC)
    for first in tl.range(0, time, Q, disable_licm=True):
        left = time - first
        row = base + first
        high, low, document, enter, leave, kept = _decays(
            log_a + row * heads, _at(pos, row, PACKED), r, left, heads, PACKED, ACC, LEAST
        )
        keys = _rows(k + row * k_heads * K, r, k_heads * K, n, K, left)
        values = _rows(v + row * heads * V, r, heads * V, p, V, left)
        grads = _rows(dy + row * heads * V, r, heads * V, p, V, left)
        d_past = enter[:, None] * _dot(grads, tl.trans(S), DOT, PRECISION)
        queries = _rows(q + row * q_heads * K, r, q_heads * K, n, K, left).to(ACC)
        tl.store(shares + (shift + row) * heads + r * heads, tl.sum(queries * d_past, 1), mask=r < left)
        d_scores = _dot(grads, tl.trans(values), DOT, PRECISION) * _weights(high, low, document, r, False)
        d_queries = _add_dot(d_past, d_scores, keys, DOT, PRECISION)
        _store_rows(dq + (shift + row) * heads * K, r, heads * K, n, K, left, d_queries)
        S = _add_dot(kept * S, tl.trans(keys.to(ACC) * leave[:, None]), values, DOT, PRECISION)


@triton.jit
def chunked_backward_keys(
    log_a, k, v, q, pos, dlast, dy, dk, dv, dstate, shares, time, heads, K, V, k_heads, q_heads,
    PACKED: tl.constexpr, CONTINUED: tl.constexpr, Q: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, LEAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The grid of `chunked_forward`. dv: [B, T, heads, V]. dk: [V / BV, B, T, heads, K]. dstate: [B, heads, K, V].

    dlast: like dstate, read if CONTINUED. shares: [V / BV, B, T, heads], what else there is to that gradient.
    """
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    base = batch * time
    shift = tl.program_id(0) * tl.num_programs(2).to(tl.int64) * time
    n, p, r = tl.arange(0, BK), tl.program_id(0) * BV + tl.arange(0, BV), tl.arange(0, Q)
    log_a += head
    k += head // (heads // k_heads) * K
    q += head // (heads // q_heads) * K
    v += head * V
    dy += head * V
    dv += head * V
    dk += head * K
    shares += head
    own = (batch * heads + head) * K * V
    if CONTINUED:
        dlast += own
    E = _state(dlast, n, p, K, V, CONTINUED, ACC)
    chunks = (time + Q - 1) // Q
    for passed in tl.range(0, chunks, disable_licm=True):
        first = (chunks - 1 - passed) * Q
        left = time - first
        row = base + first
        high, low, document, enter, leave, kept = _decays(
            log_a + row * heads, _at(pos, row, PACKED), r, left, heads, PACKED, ACC, LEAST
        )
        keys = _rows(k + row * k_heads * K, r, k_heads * K, n, K, left)
        queries = _rows(q + row * q_heads * K, r, q_heads * K, n, K, left)
        values = _rows(v + row * heads * V, r, heads * V, p, V, left)
        grads = _rows(dy + row * heads * V, r, heads * V, p, V, left)
        weights = _weights(high, low, document, r, True)
        scores = _dot(keys, tl.trans(queries), DOT, PRECISION) * weights
        d_values = leave[:, None] * _dot(keys, E, DOT, PRECISION)
        share = -tl.sum(values.to(ACC) * d_values, 1)
        d_values = _add_dot(d_values, scores, grads, DOT, PRECISION)
        _store_rows(dv + row * heads * V, r, heads * V, p, V, left, d_values)
        d_weights = _dot(values, tl.trans(grads), DOT, PRECISION)
        pairs = scores * d_weights
        share += tl.sum(pairs, 0) - tl.sum(pairs, 1)
        tl.store(shares + (shift + row) * heads + r * heads, share, mask=r < left)
        d_keys = leave[:, None] * _dot(values, tl.trans(E), DOT, PRECISION)
        d_keys = _add_dot(d_keys, d_weights * weights, queries, DOT, PRECISION)
        _store_rows(dk + (shift + row) * heads * K, r, heads * K, n, K, left, d_keys)
        E = _add_dot(kept * E, tl.trans(queries.to(ACC) * enter[:, None]), grads, DOT, PRECISION)
    _store_state(dstate + own, n, p, K, V, E)
