"""One token of attention with composed heads as a Triton kernel: rings of keys and values, each read once.

A single query has no use for matrix units, so tiles are [heads, keys, columns of a head], multiplied one by one.
Programs share the slots of a ring out among themselves, tile by tile in turn, for slots that are still empty lie at its
end. The composed scores stay in memory, a number for each head and key: what is mixed behind the softmax must be
normalised before, and the normaliser is known when all keys have been seen.
"""
# mypy: ignore-errors

import triton
import triton.language as tl
from kernels.composed_triton import LOWEST, again, columns, constants, mixed, normalised, planes


@triton.jit
def token_products(
    q, k, c, h, left, HP: tl.constexpr, BK: tl.constexpr, H: tl.constexpr, D: tl.constexpr, SLICE: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """`q . k` of every head [heads, 1, BK], of q [heads, D] and the rows c of k [keys, heads, D]."""
    sums = tl.zeros((HP, BK), ACC)
    for first in tl.static_range(0, D, SLICE):
        one = columns(q, tl.arange(0, 1)[None, :, None], h, first, 1, SLICE, H, D).to(ACC)
        other = columns(k, c, h, first, left, SLICE, H, D).to(ACC)
        sums += tl.sum(one * other, 2)
    return sums[:, None, :]


@triton.jit
def together(lse, h, H: tl.constexpr, SPLITS: tl.constexpr):
    """The logarithm of the sum of normalisers, [heads, 1, 1], of lse [SPLITS, heads]; 0 if there was no key."""
    i = tl.arange(0, SPLITS)[None, None, :]
    parts = tl.load(lse + i * H + h, mask=h < H, other=0.0)
    top = tl.max(parts, 2, keep_dims=True)
    found = top + tl.log(tl.sum(tl.exp(parts - top), 2, keep_dims=True))
    return tl.where(top > LOWEST, found, 0.0)


@triton.jit
def composed_token(
    q, k, v, q_tokens, k_tokens, weights, q_after, k_after, w_after, pos, s, lse, y, S, RING, WINDOW,
    BEFORE: tl.constexpr, BEFORE_Q: tl.constexpr, BEFORE_K: tl.constexpr, BEFORE_W: tl.constexpr,
    AFTER: tl.constexpr, AFTER_Q: tl.constexpr, AFTER_K: tl.constexpr, AFTER_W: tl.constexpr,
    SCALE: tl.constexpr, H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, HP: tl.constexpr, BK: tl.constexpr,
    SLICE: tl.constexpr, SPLITS: tl.constexpr, SCORES: tl.constexpr, VALUES: tl.constexpr, DOT: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """The sums of values y [B, SPLITS, H, E] of a query q [B, H, D], not yet added up over programs.

    k: [B, S, H, D] and v: [B, S, H, E] are slots of rings of RING tokens, which hold the token at pos [B] already; a
    query at -1 sees nothing. Tokens and weights as in `composed_values`. A grid of (SPLITS, B). If SCORES, s [B, H, S],
    the composed scores, and lse [B, SPLITS, H], the logarithm of the normaliser of each program's keys, `LOWEST` if
    none is seen; else these are given. y follows if VALUES, and s becomes the composed weights. One launch does both if
    a sequence has one program, else there is one for either.
    """
    batch = tl.program_id(1).to(tl.int64)
    h = tl.arange(0, HP)[:, None, None]
    r = tl.arange(0, 1)[None, :, None]
    c = tl.arange(0, BK)[None, None, :]
    rows = tl.arange(0, BK)[None, :, None]
    place = tl.load(pos + batch).to(tl.int32)
    end = tl.minimum(S, place + 1)
    start = tl.program_id(0) * BK
    s += batch * H * S
    lse += batch * SPLITS * H
    if SCORES:
        ws = constants(weights, h, H, HP, BEFORE_W, DOT, ACC)
        top = tl.full((HP, 1, 1), LOWEST, ACC)
        total = tl.zeros((HP, 1, 1), ACC)
        for k0 in tl.range(start, end, SPLITS * BK, disable_licm=True):
            here = again(batch, k0)
            row = batch * S + k0
            a = token_products(q + here * (H * D), k + row * (H * D), rows, h, end - k0, HP, BK, H, D, SLICE, ACC)
            qs = planes(q_tokens, here, r, h, 1, H, BEFORE_Q)
            ks = planes(k_tokens, row, c, h, end - k0, H, BEFORE_K)
            a = mixed(a * SCALE, qs, ks, ws, BEFORE)
            inside = (k0 + c < end) & ((place - k0 - c) % RING < WINDOW) & (h < H)
            a = tl.where(inside, a, LOWEST)
            tl.store(s + h * S + k0 + c, a, mask=(k0 + c < end) & (h < H))
            higher = tl.maximum(top, tl.max(a, 2, keep_dims=True))
            fresh = tl.where(inside, tl.exp(a - higher), 0.0)
            total = total * tl.exp(top - higher) + tl.sum(fresh, 2, keep_dims=True)
            top = higher
        normaliser = tl.where(total > 0, top + tl.log(tl.where(total > 0, total, 1.0)), LOWEST)
        tl.store(lse + tl.program_id(0) * H + h, normaliser, mask=h < H)
        tl.debug_barrier()  # other threads of the program read what these have written
    if VALUES:
        ws = constants(w_after, h, H, HP, AFTER_W, DOT, ACC)
        norm = together(lse, h, H, SPLITS)
        for k0 in tl.range(start, end, SPLITS * BK, disable_licm=True):
            here = again(batch, k0)
            row = batch * S + k0
            at = s + h * S + k0 + c
            there = (k0 + c < end) & (h < H)
            a = tl.load(at, mask=there, other=LOWEST)
            qs = planes(q_after, here, r, h, 1, H, AFTER_Q)
            ks = planes(k_after, row, c, h, end - k0, H, AFTER_K)
            tl.store(at, mixed(normalised(a, norm, a > LOWEST), qs, ks, ws, AFTER), mask=there)
        tl.debug_barrier()
        for e in tl.range(0, E, SLICE):
            sums = tl.zeros((HP, BK, SLICE), ACC)  # added up over keys in the end: threads have some of the keys each
            for k0 in tl.range(start, end, SPLITS * BK, disable_licm=True):
                p = tl.load(s + h * S + k0 + rows, mask=(k0 + rows < end) & (h < H), other=0.0)
                values = columns(v + (batch * S + k0) * (H * E), rows, h, e, end - k0, SLICE, H, E)
                sums += p * values.to(ACC)
            d = e + tl.arange(0, SLICE)[None, None, :]
            at = y + (batch * SPLITS + tl.program_id(0)) * (H * E) + h * E + d
            found = tl.sum(sums, 1, keep_dims=True)
            tl.store(at, found.to(y.dtype.element_ty), mask=(h < H) & (d < E))


@triton.jit
def composed_token_sums(parts, y, N, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """y [B, N] of what `composed_token` found, [B, SPLITS, N]. A grid of (N / BLOCK, B)."""
    batch = tl.program_id(1).to(tl.int64)
    i = tl.arange(0, SPLITS)[:, None]
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    found = tl.load(parts + (batch * SPLITS + i) * N + n[None, :], mask=n[None, :] < N, other=0.0)
    tl.store(y + batch * N + n, tl.sum(found, 0).to(y.dtype.element_ty), mask=n < N)
