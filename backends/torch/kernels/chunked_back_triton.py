"""The gradients of a scan of outer products as Triton kernels: two loops, and no state of a chunk is ever stored.

One runs forward in time, where the state is, for the gradient of the queries; one runs backward, where the adjoint of
the state is, for those of keys, values and decays. The gradient of the log decay at t is the sum over all pairs of a
query from t on and a key before t: a sum from the end of what each token adds, in which pairs that are both behind t
cancel.

The gradients of what slices share are added up outside, which may be done behind gates because their derivatives are
linear. A normaliser is one value more, which is one: its gradient d_norm is a share of the slice, too, and joins that
of the weight of every pair.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no stars in tuples)

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
from kernels.chunked_triton import (
    _add_dot,
    _decays,
    _dot,
    _given,
    _incoming,
    _pair_decays,
    _rows,
    _state,
    _store_rows,
    _store_state,
    _sums,
)


@triton.jit
def _from(pointer, offset):
    if pointer is None:
        return pointer
    else:
        return pointer + offset


@triton.jit
def _with_norm(x, norms, row, r, left, heads, NORMALISED: tl.constexpr):
    """The tokens of a chunk, and behind them what their queries read of the sums of the keys; it begins at the head."""
    if NORMALISED:
        return x + (tl.load(norms + (row + tl.minimum(r, left - 1)) * heads)[:, None],)
    else:
        return x


@triton.jit
def _incoming_both(
    dy, d_norms, reads, norms, x, w, row, r, p, left, heads, V,
    OUT_GRAD: tl.constexpr, NORMALISED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The gradients of what a chunk reads [Q, BV], and of its normaliser [Q], zero if it has none: of what all slices
    read the first one has the gradient.
    """
    if not NORMALISED:
        return _incoming(dy, reads, x, w, row, r, p, left, heads, V, OUT_GRAD, ACC), tl.full((r.shape[0],), 0.0, ACC)
    elif OUT_GRAD is None:
        d_norm = tl.load(d_norms + (row + r) * heads, mask=(r < left) & (tl.program_id(0) == 0), other=0.0)
        return _rows(dy + row * heads * V, r, heads * V, p, V, left), d_norm
    else:
        grads, read = _given(dy, reads, row, r, p, left, heads, V, ACC)
        d_read, dx, _ = OUT_GRAD(read, _with_norm(x, norms, row, r, left, heads, NORMALISED), w, grads)
        d_norm = tl.sum(tl.where((r < left)[:, None], dx[len(x)] + tl.full((r.shape[0], 1), 0.0, ACC), 0.0), 1)
        return tl.where((r < left)[:, None] & (p < V)[None, :], d_read, 0.0), d_norm


@triton.jit
def chunked_backward_queries(
    xs, ws, k, q, pos, state, sums, dy, d_norms, reads, norms, dq, shares, time, heads, K, V, k_heads, q_heads,
    X: tl.constexpr, W: tl.constexpr, NUMBERS: tl.constexpr, GATES: tl.constexpr, OUT_GRAD: tl.constexpr,
    NORMALISED: tl.constexpr, RAGGED: tl.constexpr, PACKED: tl.constexpr, CONTINUED: tl.constexpr, Q: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr, LEAST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The grid and the shapes of `chunked_forward`. dq: [V / BV, B, T, heads, K]. d_norms: like norms.

    If NORMALISED, norms are read where there is OUT_GRAD, else d_norms. shares: [V / BV, B, T, heads], what queries add
    to the gradient of the log decay, keys being in earlier chunks.
    """
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    base = batch * time
    shift = tl.program_id(0) * tl.num_programs(2).to(tl.int64) * time
    n, p, r = tl.arange(0, BK), tl.program_id(0) * BV + tl.arange(0, BV), tl.arange(0, Q)
    k += head // (heads // k_heads) * K
    q += head // (heads // q_heads) * K
    dy += head * V
    reads, norms, d_norms = _from(reads, head * V), _from(norms, head), _from(d_norms, head)
    dq += head * K
    shares += head
    if CONTINUED:
        state += (batch * heads + head) * K * V
    S = tl.trans(_state(state, n, p, K, V, CONTINUED, ACC))
    if NORMALISED:
        z = _sums(sums, batch * heads + head, n, K, CONTINUED, ACC)
    w = weights(ws, p, head, V, W, NUMBERS, RAGGED, ACC)
    for first in tl.range(0, time, Q, disable_licm=True):
        left = time - first
        row = base + first
        starts = starting(pos, row, first, r, left, PACKED)
        x = tokens(xs, row, r, p, left, head, heads, V, X, GATES, RAGGED, ACC)
        log, values = gated(x, w, starts, r, p, left, V, GATES, ACC)
        high, low, document, enter, leave, kept = _decays(log, starts, PACKED, ACC, LEAST)
        keys = _rows(k + row * k_heads * K, r, k_heads * K, n, K, left)
        grads, d_norm = _incoming_both(
            dy, d_norms, reads, norms, x, w, row, r, p, left, heads, V, OUT_GRAD, NORMALISED, ACC
        )
        d_past = _dot(grads, S, DOT, PRECISION)
        if NORMALISED:
            d_past += d_norm[:, None] * z[None, :]
            z = kept * z + tl.sum(keys.to(ACC) * leave[:, None], 0)
        d_past = enter[:, None] * d_past
        queries = _rows(q + row * q_heads * K, r, q_heads * K, n, K, left).to(ACC)
        tl.store(shares + (shift + row) * heads + r * heads, tl.sum(queries * d_past, 1), mask=r < left)
        d_weights = _dot(grads, tl.trans(values), DOT, PRECISION)
        if NORMALISED:
            d_weights += d_norm[:, None]
        d_scores = d_weights * _pair_decays(high, low, document, r, False)
        S = _add_dot(kept * S, tl.trans(values.to(ACC) * leave[:, None]), keys, DOT, PRECISION)
        d_queries = _add_dot(d_past, d_scores, keys, DOT, PRECISION)
        _store_rows(dq + (shift + row) * heads * K, r, heads * K, n, K, left, d_queries)


@triton.jit
def chunked_backward_keys(
    xs, ws, k, q, pos, last, last_sums, dlast, d_last_sums, dy, d_norms, reads, norms, dk, dxs, dws, dstate, d_sums,
    shares, time, heads, K, V, k_heads, q_heads,
    X: tl.constexpr, W: tl.constexpr, NUMBERS: tl.constexpr, GATES: tl.constexpr, GATES_GRAD: tl.constexpr,
    OUT_GRAD: tl.constexpr, NORMALISED: tl.constexpr, RAGGED: tl.constexpr, PACKED: tl.constexpr,
    CONTINUED: tl.constexpr, Q: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
    LEAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The grid and the shapes of `chunked_forward`. dk: [V / BV, B, T, heads, K]. dstate: [B, heads, K, V].

    dxs, dws: like xs and ws, those without values [V / BV, B, T, heads] and [V / BV, B, heads], the others of ws
    [B, heads, V]. dlast: like last; both are read if CONTINUED; d_last_sums likewise. d_sums: [V / BV, B, heads, K].
    shares: those of `chunked_backward_queries`.
    """
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    base = batch * time
    shift = tl.program_id(0) * tl.num_programs(2).to(tl.int64) * time
    n, p, r = tl.arange(0, BK), tl.program_id(0) * BV + tl.arange(0, BV), tl.arange(0, Q)
    k += head // (heads // k_heads) * K
    q += head // (heads // q_heads) * K
    dy += head * V
    reads, norms, d_norms = _from(reads, head * V), _from(norms, head), _from(d_norms, head)
    dk += head * K
    shares += head
    sequence = batch * heads + head
    own = sequence * K * V
    if CONTINUED:
        dlast += own
    E = tl.trans(_state(dlast, n, p, K, V, CONTINUED, ACC))
    if NORMALISED:
        e = _sums(d_last_sums, sequence, n, K, CONTINUED, ACC)
        e = tl.where(tl.program_id(0) == 0, e, 0.0)
    behind = tl.full((Q,), 0.0, ACC)
    if CONTINUED:  # the last state is one more query
        behind += tl.sum(tl.sum(E * tl.trans(_state(last + own, n, p, K, V, True, ACC)), 1), 0)
        if NORMALISED:
            behind += tl.sum(e * _sums(last_sums, sequence, n, K, True, ACC), 0)
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
        grads, d_norm = _incoming_both(
            dy, d_norms, reads, norms, x, w, row, r, p, left, heads, V, OUT_GRAD, NORMALISED, ACC
        )
        kept_pairs = _pair_decays(high, low, document, r, True)
        scores = _dot(keys, tl.trans(queries), DOT, PRECISION) * kept_pairs
        d_values = leave[:, None] * _dot(keys, tl.trans(E), DOT, PRECISION)
        share = tl.load(shares + (shift + row) * heads + r * heads, mask=r < left, other=0.0)
        share -= tl.sum(values.to(ACC) * d_values, 1)
        d_values = _add_dot(d_values, scores, grads, DOT, PRECISION)
        d_weights = _dot(values, tl.trans(grads), DOT, PRECISION)
        if NORMALISED:
            d_weights += d_norm[None, :]
            share -= leave * tl.sum(keys.to(ACC) * e[None, :], 1)
        pairs = scores * d_weights
        share += tl.sum(pairs, 0) - tl.sum(pairs, 1)
        d_keys = _dot(values, E, DOT, PRECISION)
        if NORMALISED:
            d_keys += e[None, :]
            e = kept * e + tl.sum(queries.to(ACC) * (enter * d_norm)[:, None], 0)
        d_keys = leave[:, None] * d_keys
        E = _add_dot(kept * E, tl.trans(grads.to(ACC) * enter[:, None]), queries, DOT, PRECISION)
        d_keys = _add_dot(d_keys, d_weights * kept_pairs, queries, DOT, PRECISION)
        _store_rows(dk + (shift + row) * heads * K, r, heads * K, n, K, left, d_keys)
        d_log = behind + tl.sum(tl.where(r[None, :] >= r[:, None], share[None, :], 0.0), 1)
        behind += tl.sum(share[None, :] + tl.full((Q, Q), 0.0, ACC), 1)
        if PACKED:
            d_log = tl.where(starts != 0, 0.0, d_log)
        dx, dw = gated_back(x, w, starts, d_log, d_values, GATES_GRAD)
        if OUT_GRAD is not None:
            do, read = _given(dy, reads, row, r, p, left, heads, V, ACC)
            _, more, shares_of_w = OUT_GRAD(read, _with_norm(x, norms, row, r, left, heads, NORMALISED), w, do)
            dx, dw = summed(dx, more), summed(dw, shares_of_w)
        store_tokens(dxs, dx, row, shift, r, p, left, head, heads, V, X, ACC)
        d_w = over_tokens(d_w, dw, r, p, left, V, W, ACC)
    _store_state(dstate + own, n, p, K, V, tl.trans(E))
    if NORMALISED:
        slice_ = tl.program_id(0) * tl.num_programs(2).to(tl.int64) * heads
        tl.store(d_sums + (slice_ + sequence) * K + n, e, mask=n < K)
    store_weights(dws, d_w, p, head, heads, V, W)
