"""What the gates of a scan with a decay per key read and make, on the tiles of a chunk: for `chunked_key_triton`.

A tile of tokens is [Q, BV] of values, [Q, BK] of keys, or [Q, 1] of what a head has; of weights it has one row. Rows
and columns that are not there hold others again, so that no equation meets a number that is none.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton knows no stars in tuples)

import triton
import triton.language as tl
from kernels.chunked_gates_triton import (
    no_weight,
    over_weight,
    store_token,
    store_weight,
    token_tile,
    weight_tile,
)

PER_HEAD, PER_VALUE, PER_KEY = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
"""What a token or a weight is of."""
KINDS = {"head": 0, "value": 1, "key": 2}


@triton.jit
def key_tokens(
    xs, row, r, n, p, left, head, heads, K, V,
    X: tl.constexpr, SHARED: tl.constexpr, RAGGED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The tokens r of a chunk that begins in `row`, of which `left` are there.

    xs: [B, T, heads, V], [B, T, heads, K] or [B, T, heads], by X; SHARED heads in a row have one between them. RAGGED:
    whether not all values p are there, and whether not all keys n.
    """
    out = ()
    for i in tl.static_range(len(xs)):
        own, all_own = head // SHARED[i], heads // SHARED[i]
        if X[i] == PER_KEY:
            tile = token_tile(xs[i], row, r, n, left, own, all_own, K, True, RAGGED[1], ACC)
        else:
            tile = token_tile(xs[i], row, r, p, left, own, all_own, V, X[i] == PER_VALUE, RAGGED[0], ACC)
        out = out + (tile,)
    return out


@triton.jit
def key_weights(
    ws, n, p, head, K, V, W: tl.constexpr, NUMBERS: tl.constexpr, RAGGED: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """ws: [heads, V], [heads, K] or [heads]. The numbers stand behind them."""
    out = ()
    for i in tl.static_range(len(ws)):
        if W[i] == PER_KEY:
            tile = weight_tile(ws[i], n, head, K, True, RAGGED[1], ACC)
        else:
            tile = weight_tile(ws[i], p, head, V, W[i] == PER_VALUE, RAGGED[0], ACC)
        out = out + (tile,)
    for i in tl.static_range(len(NUMBERS)):
        out = out + (NUMBERS[i],)
    return out


@triton.jit
def key_gated(x, w, starts, r, n, p, left, K, V, GATES: tl.constexpr, BONUS: tl.constexpr, ACC: tl.constexpr):
    """Log decays, keys, values, queries and keys of the bonus (else queries again), zero where there are none."""
    made = GATES(x, w, starts[:, None] != 0)
    of_keys = (r < left)[:, None] & (n < K)[None, :]
    log = tl.where(of_keys, made[0], 0.0).to(ACC)
    keys = tl.where(of_keys, made[1], 0.0).to(ACC)
    values = tl.where((r < left)[:, None] & (p < V)[None, :], made[2], 0.0).to(ACC)
    queries = tl.where(of_keys, made[3], 0.0).to(ACC)
    if BONUS:
        return log, keys, values, queries, tl.where(of_keys, made[4], 0.0).to(ACC)
    else:
        return log, keys, values, queries, queries


@triton.jit
def store_key_tokens(
    dxs, dx, row, shares, each, r, n, p, left, head, heads, K, V, X: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """Gradients of a chunk as this program has them, whose arrays [.., B, T, heads, axis] begin with its share.

    shares: which that is by what a token is of. each: how many tokens a share has.
    """
    for i in tl.static_range(len(dxs)):
        at = shares[X[i]] * each + row
        if X[i] == PER_KEY:
            store_token(dxs[i], dx[i], at, r, n, left, head, heads, K, True, ACC)
        else:
            store_token(dxs[i], dx[i], at, r, p, left, head, heads, V, X[i] == PER_VALUE, ACC)


@triton.jit
def no_key_weights(ws, r, n, p, W: tl.constexpr, ACC: tl.constexpr):
    """Sums that `over_key_tokens` grows: [1, BV], [1, BK], or [Q, 1] by the place in a chunk."""
    out = ()
    for i in tl.static_range(len(ws)):
        if W[i] == PER_KEY:
            out = out + (no_weight(r, n, True, ACC),)
        else:
            out = out + (no_weight(r, p, W[i] == PER_VALUE, ACC),)
    return out


@triton.jit
def over_key_tokens(dws, dw, r, n, p, left, K, V, W: tl.constexpr):
    """Sums of gradients of weights, grown by the tokens of a chunk."""
    out = ()
    for i in tl.static_range(len(dws)):
        if W[i] == PER_KEY:
            out = out + (over_weight(dws[i], dw[i], r, n, left, K, True),)
        else:
            out = out + (over_weight(dws[i], dw[i], r, p, left, V, W[i] == PER_VALUE),)
    return out


@triton.jit
def store_key_weights(pointers, dws, shares, n, p, head, heads, K, V, W: tl.constexpr):
    """What `over_key_tokens` summed of a sequence, into arrays [.., B, heads, axis] that begin with this share."""
    for i in tl.static_range(len(dws)):
        row = shares[W[i]] * tl.num_programs(2) + tl.program_id(2)
        if W[i] == PER_KEY:
            store_weight(pointers[i], dws[i], row, n, head, heads, K, True)
        else:
            store_weight(pointers[i], dws[i], row, p, head, heads, V, W[i] == PER_VALUE)


@triton.jit
def as_they_are(x, w, first):
    """Values, log decays, keys and queries without gates."""
    return x[1], x[2], x[0], x[3]


@triton.jit
def as_they_are_grad(x, w, first, d_log, d_keys, d_values, d_queries):
    """The derivatives of `as_they_are`."""
    return (d_values, d_log, d_keys, d_queries), ()
