"""The scan of outer products with a decay for each key as Triton kernels: 16 tokens at a time, exactly.

A pair of tokens has a decay for each key, so that scores are no product of matrices unless the decay is split in two,
and the halves of a strong decay overflow. Chunks are short instead: of pairs inside of them each decay is computed by
itself, from sums of log decays that only ever grow, and whatever is further apart goes through the state, which costs
the same for chunks of any length. The loops over chunks are those of `chunked_triton`.

Gates make log decays, keys, values and queries of tokens xs and weights ws, and OUT the result of what is read: device
functions as in `kernels/chunked_key_gates.py`. Inside of a chunk they are computed once for the tile, and the log decay
and the key once more for the token that others are compared with. BEFORE: the state is read before the update, that is
a token's own log decay, key and value are not in what it reads; BONUS: but a key of the gates and its value are.

The gradient of a log decay is the sum over all pairs of a query behind it and a key before it: of `q dq` from there to
the end without `k dk` from there to the end, for pairs that are both behind it cancel. dq needs the state, which runs
forward, and gates need all gradients at once, so dq is written by one kernel and read by the other. Every slice of the
values has its share of the gradients of what slices have in common, and takes it through the gates, whose derivatives
are linear; the shares are added up outside. So are, where a program has only a part of the keys, what it reads and its
shares of the gradients of the values.
"""
# mypy: ignore-errors

import triton
import triton.language as tl
from kernels.chunked_gates_triton import starting, summed
from kernels.chunked_key_gates_triton import (
    key_gated,
    key_tokens,
    key_weights,
    no_key_weights,
    over_key_tokens,
    store_key_tokens,
    store_key_weights,
)
from kernels.chunked_triton import _add_dot, _dot, _given, _incoming, _rows, _state, _store_rows, _store_state


@triton.jit
def _place(K, PART: tl.constexpr, PARTS: tl.constexpr, RAGGED: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """The keys and values of a program, keys that are not there being K; and its number, that of its part of the keys
    and that of its slice of the values, which say where it leaves shares by what they are of: see `store_key_tokens`.
    """
    program = tl.program_id(0)
    slice_, part = program // PARTS, program % PARTS
    n = tl.arange(0, BK)
    if RAGGED[1]:
        n = tl.where(n < PART, part * PART + n, K)
    else:
        n += part * PART
    return n, slice_ * BV + tl.arange(0, BV), (program, part, slice_)


@triton.jit
def _documents(starts, PACKED: tl.constexpr):
    """How many documents have started in the chunk, by token and in all of it."""
    if PACKED:
        return tl.cumsum(starts, 0), tl.sum(starts, 0)
    else:
        return 0 * starts, tl.sum(0 * starts, 0)


@triton.jit
def _one(
    xs, w, pos, row, first, t, n, p, left, head, heads, K, V, X: tl.constexpr, SHARED: tl.constexpr,
    GATES: tl.constexpr, RAGGED: tl.constexpr, PACKED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The log decay and the key [1, BK] and the value [1, BV] of the token t of a chunk."""
    at = t + tl.arange(0, 1)
    x = key_tokens(xs, row, at, n, p, left, head, heads, K, V, X, SHARED, RAGGED, ACC)
    starts = starting(pos, row, first, at, left, PACKED)
    log, key, value, _, _ = key_gated(x, w, starts, at, n, p, left, K, V, GATES, False, ACC)
    return log, key, value


@triton.jit
def _decays(ago, document, r, t, BEFORE: tl.constexpr):
    """Of each key [Q, BK], from the token t up to those that see it: from it on, or BEFORE from the next on."""
    own = document == tl.sum(tl.where(r == t, document, 0), 0)
    seen = own & (r > t) if BEFORE else own & (r >= t)
    return tl.where(seen[:, None], tl.exp(ago), 0.0)


@triton.jit
def _passed(ago, until, tail, log, r, t, BEFORE: tl.constexpr):
    """Log decays [Q, BK] since the token t - 1, and until the end of the chunk, and since t till there [1, BK]."""
    later = r > t if BEFORE else r >= t
    ago += tl.where(later[:, None], log, 0.0)
    until = tl.where((r == t)[:, None], tail, until)
    return ago, until, tail + log


@triton.jit
def _borders(ago, until, tail, document, last, BK: tl.constexpr):
    """The decay since before the chunk and until its end [Q, BK], zero across starts, and that of the whole [BK, 1]."""
    enter = tl.where((document == 0)[:, None], tl.exp(ago), 0.0)
    leave = tl.where((document == last)[:, None], tl.exp(until), 0.0)
    return enter, leave, tl.where(last == 0, tl.exp(tl.reshape(tail, (BK, 1))), 0.0)


@triton.jit
def chunked_key_forward(
    xs, ws, pos, state, y, last, reads, time, heads, K, V,
    X: tl.constexpr, W: tl.constexpr, SHARED: tl.constexpr, NUMBERS: tl.constexpr, GATES: tl.constexpr,
    OUT: tl.constexpr, BEFORE: tl.constexpr, BONUS: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr,
    RAGGED: tl.constexpr, PACKED: tl.constexpr, CONTINUED: tl.constexpr, Q: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A grid of (V / BV x PARTS, heads, B); a program has PART keys. xs, ws: see `key_tokens`, `key_weights`.

    pos: [B, T]. y: [PARTS, B, T, heads, V]. state, last: [B, heads, K, V]. reads: like y, or None; what OUT is taken
    of, which needs all keys.
    """
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    base = batch * time
    n, p, shares = _place(K, PART, PARTS, RAGGED, BK, BV)
    r = tl.arange(0, Q)
    y += (shares[1] * tl.num_programs(2).to(tl.int64) * time * heads + head) * V
    if reads is not None:
        reads += head * V
    own = (batch * heads + head) * K * V
    if CONTINUED:
        state += own
    S = _state(state, n, p, K, V, CONTINUED, ACC)
    for first in tl.range(0, time, Q, disable_licm=True):
        left = time - first
        row = base + first
        starts = starting(pos, row, first, r, left, PACKED)
        document, started = _documents(starts, PACKED)
        w = key_weights(ws, n, p, head, K, V, W, NUMBERS, RAGGED, ACC)
        x = key_tokens(xs, row, r, n, p, left, head, heads, K, V, X, SHARED, RAGGED, ACC)
        _, keys, values, queries, bonus = key_gated(x, w, starts, r, n, p, left, K, V, GATES, BONUS, ACC)
        scores = tl.full((Q, Q), 0.0, ACC)
        if BONUS:
            scores += tl.where(r[:, None] == r[None, :], tl.sum(queries * bonus, 1)[:, None], 0.0)
        ago = tl.full((Q, BK), 0.0, ACC)
        until = tl.full((Q, BK), 0.0, ACC)
        tail = tl.full((1, BK), 0.0, ACC)
        count = tl.minimum(left, Q)
        for passed in range(count):
            t = count - 1 - passed
            log, key, _value = _one(
                xs, w, pos, row, first, t, n, p, left, head, heads, K, V, X, SHARED, GATES, RAGGED, PACKED, ACC
            )  # fmt: skip
            score = tl.sum(queries * _decays(ago, document, r, t, BEFORE) * key, 1)
            scores += tl.where((r == t)[None, :], score[:, None], 0.0)
            ago, until, tail = _passed(ago, until, tail, log, r, t, BEFORE)
        enter, leave, kept = _borders(ago, until, tail, document, started, BK)
        out = _add_dot(_dot(queries * enter, S, DOT, PRECISION), scores, values, DOT, PRECISION)
        S = _add_dot(kept * S, tl.trans(keys * leave), values, DOT, PRECISION)
        if OUT is not None:
            if reads is not None:
                _store_rows(reads + row * heads * V, r, heads * V, p, V, left, out)
            out = OUT(out, x, w)
        _store_rows(y + row * heads * V, r, heads * V, p, V, left, out)
    _store_state(last + own, n, p, K, V, S)


@triton.jit
def chunked_key_backward_queries(
    xs, ws, pos, state, dy, reads, dq, time, heads, K, V,
    X: tl.constexpr, W: tl.constexpr, SHARED: tl.constexpr, NUMBERS: tl.constexpr, GATES: tl.constexpr,
    OUT_GRAD: tl.constexpr, BEFORE: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr, RAGGED: tl.constexpr,
    PACKED: tl.constexpr, CONTINUED: tl.constexpr, Q: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The grid and the shapes of `chunked_key_forward`, but dy: [B, T, heads, V]. dq: [V / BV, B, T, heads, K], without
    what a bonus adds.
    """
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    base = batch * time
    each = tl.num_programs(2).to(tl.int64) * time
    n, p, shares = _place(K, PART, PARTS, RAGGED, BK, BV)
    r = tl.arange(0, Q)
    dy += head * V
    if reads is not None:
        reads += head * V
    dq += head * K
    if CONTINUED:
        state += (batch * heads + head) * K * V
    S = _state(state, n, p, K, V, CONTINUED, ACC)
    w = key_weights(ws, n, p, head, K, V, W, NUMBERS, RAGGED, ACC)
    for first in tl.range(0, time, Q, disable_licm=True):
        left = time - first
        row = base + first
        starts = starting(pos, row, first, r, left, PACKED)
        document, started = _documents(starts, PACKED)
        x = key_tokens(xs, row, r, n, p, left, head, heads, K, V, X, SHARED, RAGGED, ACC)
        _, keys, values, _, _ = key_gated(x, w, starts, r, n, p, left, K, V, GATES, False, ACC)
        grads = _incoming(dy, reads, x, w, row, r, p, left, heads, V, OUT_GRAD, ACC)
        d_queries = tl.full((Q, BK), 0.0, ACC)
        ago = tl.full((Q, BK), 0.0, ACC)
        until = tl.full((Q, BK), 0.0, ACC)
        tail = tl.full((1, BK), 0.0, ACC)
        count = tl.minimum(left, Q)
        for passed in range(count):
            t = count - 1 - passed
            log, key, value = _one(
                xs, w, pos, row, first, t, n, p, left, head, heads, K, V, X, SHARED, GATES, RAGGED, PACKED, ACC
            )  # fmt: skip
            d_score = tl.sum(grads.to(ACC) * value, 1)
            d_queries += d_score[:, None] * _decays(ago, document, r, t, BEFORE) * key
            ago, until, tail = _passed(ago, until, tail, log, r, t, BEFORE)
        enter, leave, kept = _borders(ago, until, tail, document, started, BK)
        d_queries += enter * tl.trans(_dot(S, tl.trans(grads), DOT, PRECISION))
        _store_rows(dq + (shares[2] * each + row) * heads * K, r, heads * K, n, K, left, d_queries)
        S = _add_dot(kept * S, tl.trans(keys * leave), values, DOT, PRECISION)


@triton.jit
def chunked_key_backward_keys(
    xs, ws, pos, last, dlast, dy, reads, dq, dxs, dws, dstate, time, heads, K, V,
    X: tl.constexpr, W: tl.constexpr, SHARED: tl.constexpr, NUMBERS: tl.constexpr, GATES: tl.constexpr,
    GATES_GRAD: tl.constexpr, OUT_GRAD: tl.constexpr, BEFORE: tl.constexpr, BONUS: tl.constexpr,
    PART: tl.constexpr, PARTS: tl.constexpr, RAGGED: tl.constexpr, PACKED: tl.constexpr, CONTINUED: tl.constexpr,
    Q: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The grid of `chunked_key_forward`, dq and the rest of `chunked_key_backward_queries`.

    dxs, dws: see `store_key_tokens`, `store_key_weights`. dstate, dlast: like last. CONTINUED: dlast and last are read.
    """
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    base = batch * time
    each = tl.num_programs(2).to(tl.int64) * time
    n, p, shares = _place(K, PART, PARTS, RAGGED, BK, BV)
    r = tl.arange(0, Q)
    dy += head * V
    if reads is not None:
        reads += head * V
    dq += head * K
    own = (batch * heads + head) * K * V
    if CONTINUED:
        dlast += own
    E = _state(dlast, n, p, K, V, CONTINUED, ACC)
    behind = tl.full((1, BK), 0.0, ACC)
    if CONTINUED:  # the last state is one more query
        behind += tl.sum(E * _state(last + own, n, p, K, V, True, ACC), 1)[None, :]
    w = key_weights(ws, n, p, head, K, V, W, NUMBERS, RAGGED, ACC)
    d_w = no_key_weights(ws, r, n, p, W, ACC)
    chunks = (time + Q - 1) // Q
    for gone in tl.range(0, chunks, disable_licm=True):
        first = (chunks - 1 - gone) * Q
        left = time - first
        row = base + first
        starts = starting(pos, row, first, r, left, PACKED)
        document, started = _documents(starts, PACKED)
        x = key_tokens(xs, row, r, n, p, left, head, heads, K, V, X, SHARED, RAGGED, ACC)
        _, keys, values, queries, bonus = key_gated(x, w, starts, r, n, p, left, K, V, GATES, BONUS, ACC)
        grads = _incoming(dy, reads, x, w, row, r, p, left, heads, V, OUT_GRAD, ACC)
        scores = tl.full((Q, Q), 0.0, ACC)  # [key, query]
        d_keys = tl.full((Q, BK), 0.0, ACC)
        ago = tl.full((Q, BK), 0.0, ACC)
        until = tl.full((Q, BK), 0.0, ACC)
        tail = tl.full((1, BK), 0.0, ACC)
        count = tl.minimum(left, Q)
        for passed in range(count):
            t = count - 1 - passed
            log, key, value = _one(
                xs, w, pos, row, first, t, n, p, left, head, heads, K, V, X, SHARED, GATES, RAGGED, PACKED, ACC
            )  # fmt: skip
            pairs = queries * _decays(ago, document, r, t, BEFORE)
            score = tl.sum(pairs * key, 1)
            scores += tl.where((r == t)[:, None], score[None, :], 0.0)
            d_key = tl.sum(pairs * tl.sum(grads.to(ACC) * value, 1)[:, None], 0)
            d_keys += tl.where((r == t)[:, None], d_key[None, :], 0.0)
            ago, until, tail = _passed(ago, until, tail, log, r, t, BEFORE)
        enter, leave, kept = _borders(ago, until, tail, document, started, BK)
        d_keys += leave * tl.trans(_dot(E, tl.trans(values), DOT, PRECISION))
        if BONUS:
            scores += tl.where(r[:, None] == r[None, :], tl.sum(queries * bonus, 1)[None, :], 0.0)
        d_values = _add_dot(_dot(keys * leave, E, DOT, PRECISION), scores, grads, DOT, PRECISION)
        E = _add_dot(kept * E, tl.trans(queries * enter), grads, DOT, PRECISION)
        d_queries = _rows(dq + (shares[2] * each + row) * heads * K, r, heads * K, n, K, left)
        of_queries = queries * d_queries
        share = of_queries - keys * d_keys
        d_log = behind + tl.cumsum(share, 0, reverse=True)
        behind += tl.sum(share, 0, keep_dims=True)
        if BEFORE:
            d_log -= of_queries
        d_log = tl.where(((r < left) & (starts == 0))[:, None], d_log, 0.0)
        if BONUS:
            own_pair = tl.sum(grads.to(ACC) * values, 1)[:, None]
            d_queries += own_pair * bonus
            dx, dw = GATES_GRAD(x, w, starts[:, None] != 0, d_log, d_keys, d_values, d_queries, own_pair * queries)
        else:
            dx, dw = GATES_GRAD(x, w, starts[:, None] != 0, d_log, d_keys, d_values, d_queries)
        if OUT_GRAD is not None:
            do, read = _given(dy, reads, row, r, p, left, heads, V, ACC)
            _, more, shares_of_w = OUT_GRAD(read, x, w, do)
            dx, dw = summed(dx, more), summed(dw, shares_of_w)
        store_key_tokens(dxs, dx, row, shares, each, r, n, p, left, head, heads, K, V, X, ACC)
        d_w = over_key_tokens(d_w, dw, r, n, p, left, K, V, W)
    _store_state(dstate + own, n, p, K, V, E)
    store_key_weights(dws, d_w, shares, n, p, head, heads, K, V, W)
