"""The scan of outer products as a Triton kernel: one loop over chunks of time, the state in registers between them.

Inside of a chunk pairs of tokens are a matrix; the state carries what came before. A program has one head of one
sequence and a slice of the values. Sums of what products leave are taken of tiles alone, also where a vector is summed:
Triton 3.7 does not compile others for Blackwell. The way back is in `chunked_back_triton`.

Triton spreads all products of a loop over the warps as the last one: along columns if that has more columns than rows.
A chunk has few rows, and warps along them would do the same work over again; so the state lies as [values, keys], and
the last product of a round is one of a chunk. Weights are read again in each round rather than kept in registers.

Gates make log decays and values of tokens xs and weights ws, OUT the result of what is read, xs and ws: device
functions as in `kernels/chunked_gates.py`. Every slice computes what it needs of them. Without gates (None) xs are the
values and the log decays.

NORMALISED: the queries read the sums of the keys, too (Katharopoulos et al. 2020, arXiv:2006.16236, equation 9). These
are a second, narrow tile of values, which are one, on matrix units and summed as the others are; OUT has what is read
of them behind xs. Every slice computes it, the first one stores it.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no stars in tuples)

import triton
import triton.language as tl
from kernels.chunked_gates_triton import gated, starting, tokens, weights

ONES = tl.constexpr(16)
"""Values that are one: the fewest rows of a product on matrix units."""


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
    sums = tl.cumsum(log, 0)
    total = tl.sum(log, 0)
    high = sums.to(ACC)
    low = (sums - high.to(tl.float64)).to(ACC)
    document = 0 * starts
    enter = tl.exp(high)
    leave = tl.exp((total - sums).to(ACC))
    kept = tl.exp(total.to(ACC))
    if PACKED:
        document = tl.cumsum(starts, 0)
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
def _sums(pointer, sequence, n, K, GIVEN: tl.constexpr, ACC: tl.constexpr):
    """The sums of the keys [BK] of a head of a sequence."""
    if GIVEN:
        return tl.load(pointer + sequence * K + n, mask=n < K, other=0.0).to(ACC)
    else:
        return tl.full((n.shape[0],), 0.0, ACC)


@triton.jit
def _column(tile):
    """What each of the columns for ones holds."""
    return tl.sum(tile, 1) / ONES


@triton.jit
def chunked_forward(
    xs, ws, k, q, pos, state, sums, y, last, last_sums, reads, norms, time, heads, K, V, k_heads, q_heads,
    X: tl.constexpr, W: tl.constexpr, NUMBERS: tl.constexpr, GATES: tl.constexpr, OUT: tl.constexpr,
    NORMALISED: tl.constexpr, RAGGED: tl.constexpr, PACKED: tl.constexpr, CONTINUED: tl.constexpr, Q: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr, LEAST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A grid of (V / BV, heads, B). xs: [B, T, heads, V], or [B, T, heads] where not X. ws: [heads, V] or [heads].

    k, q: [B, T, k_heads or q_heads, K]. pos: [B, T]. y: [B, T, heads, V]. state, last: [B, heads, K, V]. reads: like y,
    or None; what OUT is taken of. sums, last_sums: [B, heads, K], read and written if NORMALISED. norms: [B, T, heads],
    or None; the normaliser. RAGGED: BV does not divide V.
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
    sequence = batch * heads + head
    own = sequence * K * V
    if CONTINUED:
        state += own
    S = tl.trans(_state(state, n, p, K, V, CONTINUED, ACC))
    if NORMALISED:
        z = _sums(sums, sequence, n, K, CONTINUED, ACC)[None, :] + tl.full((ONES, BK), 0.0, ACC)
        ones = tl.full((Q, ONES), 1.0, DOT)
    for first in tl.range(0, time, Q, disable_licm=True):
        left = time - first
        row = base + first
        starts = starting(pos, row, first, r, left, PACKED)
        w = weights(ws, p, head, V, W, NUMBERS, RAGGED, ACC)
        x = tokens(xs, row, r, p, left, head, heads, V, X, GATES, RAGGED, ACC)
        log, values = gated(x, w, starts, r, p, left, V, GATES, ACC)
        high, low, document, enter, leave, kept = _decays(log, starts, PACKED, ACC, LEAST)
        keys = _rows(k + row * k_heads * K, r, k_heads * K, n, K, left)
        queries = _rows(q + row * q_heads * K, r, q_heads * K, n, K, left)
        scores = _dot(queries, tl.trans(keys), DOT, PRECISION) * _pair_decays(high, low, document, r, False)
        if NORMALISED:
            past = enter[:, None] * _dot(queries, tl.trans(z), DOT, PRECISION)
            norm = _column(_add_dot(past, scores, ones, DOT, PRECISION))
            if norms is not None:
                there = (r < left) & (tl.program_id(0) == 0)
                tl.store(norms + (row + r) * heads + head, norm, mask=there)
            x = x + (tl.where(r < left, norm, 1.0)[:, None],)  # something is divided by it, also of no token
        out = enter[:, None] * _dot(queries, tl.trans(S), DOT, PRECISION)
        if NORMALISED:
            z = _add_dot(kept * z, tl.trans(leave[:, None] * ones.to(ACC)), keys, DOT, PRECISION)
        S = _add_dot(kept * S, tl.trans(values.to(ACC) * leave[:, None]), keys, DOT, PRECISION)
        out = _add_dot(out, scores, values, DOT, PRECISION)
        if OUT is not None:
            if reads is not None:
                _store_rows(reads + row * heads * V, r, heads * V, p, V, left, out)
            out = OUT(out, x, w)
        _store_rows(y + row * heads * V, r, heads * V, p, V, left, out)
    _store_state(last + own, n, p, K, V, tl.trans(S))
    if NORMALISED:
        tl.store(last_sums + sequence * K + n, tl.sum(z, 0) / ONES, mask=(n < K) & (tl.program_id(0) == 0))
