"""The scan of outer products with a decay for each key as Triton kernels: 16 tokens at a time, exactly.

A pair of tokens has a decay for each key, so that scores are no product of matrices unless the decay is split in two,
and the halves of a strong decay overflow. Chunks are short instead: of pairs inside of them each decay is computed by
itself, from sums of log decays that only ever grow, and whatever is further apart goes through the state, which costs
the same for chunks of any length. The loops over chunks are those of `chunked_triton`.
"""
# mypy: ignore-errors

import triton
import triton.language as tl
from kernels.chunked_triton import _add_dot, _dot, _rows, _state, _store_rows, _store_state


@triton.jit
def _plus(a, b):
    return a + b


@triton.jit
def _at(pos, row, PACKED: tl.constexpr):
    if PACKED:
        return pos + row
    else:
        return pos


@triton.jit
def _documents(pos, r, left, PACKED: tl.constexpr):
    """How many documents have started in the chunk, by token and in all of it."""
    if PACKED:
        starts = (tl.load(pos + r, mask=r < left, other=1) == 0).to(tl.int32)
        return tl.associative_scan(starts, 0, _plus), tl.sum(starts, 0)
    else:
        return 0 * r, tl.sum(0 * r, 0)


@triton.jit
def _row(pointer, t, stride, axis, size, left, ACC: tl.constexpr):
    """The token t of a chunk [axis], zero if it is not there."""
    return tl.load(pointer + t * stride + axis, mask=axis < tl.where(t < left, size, 0), other=0.0).to(ACC)


@triton.jit
def _column(tile, r, t):
    return tl.sum(tl.where(r[None, :] == t, tile, 0.0), 1)


@triton.jit
def _decays(log_a, stride, r, n, K, left, document, last, Q: tl.constexpr, ACC: tl.constexpr):
    """The decay since before the chunk and until its end [Q, BK], zero across starts, and that of the whole [BK]."""
    since = tl.full((Q, n.shape[0]), 0.0, ACC)
    until = since
    tail = tl.full((n.shape[0],), 0.0, ACC)
    count = tl.minimum(left, Q)
    for passed in range(count):
        t = count - 1 - passed
        log = _row(log_a, t, stride, n, K, left, ACC)
        until = tl.where((r == t)[:, None], tail[None, :], until)
        since += tl.where((r >= t)[:, None], log[None, :], 0.0)
        tail += log
    enter = tl.where((document == 0)[:, None], tl.exp(since), 0.0)
    leave = tl.where((document == last)[:, None], tl.exp(until), 0.0)
    return enter, leave, tl.where(last == 0, tl.exp(tail), 0.0)


@triton.jit
def _pairs(ago, log_a, stride, r, n, K, t, left, document, ACC: tl.constexpr):
    """Log decays [Q, BK] from the token t to those from it on, from those to the token t + 1; and decays, else zero."""
    ago += tl.where((r > t)[:, None], _row(log_a, t + 1, stride, n, K, left, ACC)[None, :], 0.0)
    seen = (r >= t) & (document == tl.sum(tl.where(r == t, document, 0), 0))
    return ago, tl.where(seen[:, None], tl.exp(ago), 0.0)


@triton.jit
def chunked_key_forward(
    log_a, k, v, q, pos, state, y, last, time, heads, K, V, k_heads, q_heads,
    PACKED: tl.constexpr, CONTINUED: tl.constexpr, Q: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As `chunked_forward`, with log_a: [B, T, heads, K]."""
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    base = batch * time
    n, p, r = tl.arange(0, BK), tl.program_id(0) * BV + tl.arange(0, BV), tl.arange(0, Q)
    log_a += head * K
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
        document, starts = _documents(_at(pos, row, PACKED), r, left, PACKED)
        logs = log_a + row * heads * K
        enter, leave, kept = _decays(logs, heads * K, r, n, K, left, document, starts, Q, ACC)
        keys = _rows(k + row * k_heads * K, r, k_heads * K, n, K, left).to(ACC)
        queries = _rows(q + row * q_heads * K, r, q_heads * K, n, K, left).to(ACC)
        values = _rows(v + row * heads * V, r, heads * V, p, V, left)
        scores = tl.full((Q, Q), 0.0, ACC)
        ago = tl.full((Q, BK), 0.0, ACC)
        count = tl.minimum(left, Q)
        for passed in range(count):
            t = count - 1 - passed
            ago, weights = _pairs(ago, logs, heads * K, r, n, K, t, left, document, ACC)
            key = _row(k + row * k_heads * K, t, k_heads * K, n, K, left, ACC)
            score = tl.sum(queries * weights * key[None, :], 1)
            scores = tl.where((r == t)[None, :], score[:, None], scores)
        out = _add_dot(_dot(queries * enter, S, DOT, PRECISION), scores, values, DOT, PRECISION)
        S = _add_dot(kept[:, None] * S, tl.trans(keys * leave), values, DOT, PRECISION)
        _store_rows(y + row * heads * V, r, heads * V, p, V, left, out)
    _store_state(last + own, n, p, K, V, S)


@triton.jit
def chunked_key_backward_queries(
    log_a, k, v, q, pos, state, dy, dq, time, heads, K, V, k_heads, q_heads,
    PACKED: tl.constexpr, CONTINUED: tl.constexpr, Q: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The grid of `chunked_key_forward`. dq: [V / BV, B, T, heads, K]."""
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    base = batch * time
    shift = tl.program_id(0) * tl.num_programs(2).to(tl.int64) * time
    n, p, r = tl.arange(0, BK), tl.program_id(0) * BV + tl.arange(0, BV), tl.arange(0, Q)
    log_a += head * K
    k += head // (heads // k_heads) * K
    v += head * V
    dy += head * V
    dq += head * K
    if CONTINUED:
        state += (batch * heads + head) * K * V
    S = _state(state, n, p, K, V, CONTINUED, ACC)
    for first in tl.range(0, time, Q, disable_licm=True):
        left = time - first
        row = base + first
        document, starts = _documents(_at(pos, row, PACKED), r, left, PACKED)
        logs = log_a + row * heads * K
        enter, leave, kept = _decays(logs, heads * K, r, n, K, left, document, starts, Q, ACC)
        keys = _rows(k + row * k_heads * K, r, k_heads * K, n, K, left).to(ACC)
        values = _rows(v + row * heads * V, r, heads * V, p, V, left)
        grads = _rows(dy + row * heads * V, r, heads * V, p, V, left)
        d_scores = _dot(grads, tl.trans(values), DOT, PRECISION)
        d_queries = enter * _dot(grads, tl.trans(S), DOT, PRECISION)
        ago = tl.full((Q, BK), 0.0, ACC)
        count = tl.minimum(left, Q)
        for passed in range(count):
            t = count - 1 - passed
            ago, weights = _pairs(ago, logs, heads * K, r, n, K, t, left, document, ACC)
            key = _row(k + row * k_heads * K, t, k_heads * K, n, K, left, ACC)
            d_queries += _column(d_scores, r, t)[:, None] * weights * key[None, :]
        _store_rows(dq + (shift + row) * heads * K, r, heads * K, n, K, left, d_queries)
        S = _add_dot(kept[:, None] * S, tl.trans(keys * leave), values, DOT, PRECISION)


@triton.jit
def chunked_key_backward_keys(
    log_a, k, v, q, pos, dlast, dy, dk, dv, dstate, time, heads, K, V, k_heads, q_heads,
    PACKED: tl.constexpr, CONTINUED: tl.constexpr, Q: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As `chunked_backward_keys`, without shares of the gradient of the log decay."""
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    base = batch * time
    shift = tl.program_id(0) * tl.num_programs(2).to(tl.int64) * time
    n, p, r = tl.arange(0, BK), tl.program_id(0) * BV + tl.arange(0, BV), tl.arange(0, Q)
    log_a += head * K
    k += head // (heads // k_heads) * K
    q += head // (heads // q_heads) * K
    v += head * V
    dy += head * V
    dv += head * V
    dk += head * K
    own = (batch * heads + head) * K * V
    if CONTINUED:
        dlast += own
    E = _state(dlast, n, p, K, V, CONTINUED, ACC)
    chunks = (time + Q - 1) // Q
    for gone in tl.range(0, chunks, disable_licm=True):
        first = (chunks - 1 - gone) * Q
        left = time - first
        row = base + first
        document, starts = _documents(_at(pos, row, PACKED), r, left, PACKED)
        logs = log_a + row * heads * K
        enter, leave, kept = _decays(logs, heads * K, r, n, K, left, document, starts, Q, ACC)
        queries = _rows(q + row * q_heads * K, r, q_heads * K, n, K, left).to(ACC)
        values = _rows(v + row * heads * V, r, heads * V, p, V, left)
        grads = _rows(dy + row * heads * V, r, heads * V, p, V, left)
        d_scores = _dot(grads, tl.trans(values), DOT, PRECISION)
        d_keys = leave * _dot(values, tl.trans(E), DOT, PRECISION)
        scores = tl.full((Q, Q), 0.0, ACC)
        ago = tl.full((Q, BK), 0.0, ACC)
        count = tl.minimum(left, Q)
        for passed in range(count):
            t = count - 1 - passed
            ago, weights = _pairs(ago, logs, heads * K, r, n, K, t, left, document, ACC)
            key = _row(k + row * k_heads * K, t, k_heads * K, n, K, left, ACC)
            pairs = queries * weights
            score = tl.sum(pairs * key[None, :], 1)
            scores = tl.where((r == t)[:, None], score[None, :], scores)
            d_key = tl.sum(pairs * _column(d_scores, r, t)[:, None], 0)
            d_keys += tl.where((r == t)[:, None], d_key[None, :], 0.0)
        keys = _rows(k + row * k_heads * K, r, k_heads * K, n, K, left).to(ACC)
        d_values = _add_dot(_dot(keys * leave, E, DOT, PRECISION), scores, grads, DOT, PRECISION)
        _store_rows(dk + (shift + row) * heads * K, r, heads * K, n, K, left, d_keys)
        _store_rows(dv + row * heads * V, r, heads * V, p, V, left, d_values)
        E = _add_dot(kept[:, None] * E, tl.trans(queries * enter), grads, DOT, PRECISION)
    _store_state(dstate + own, n, p, K, V, E)
