"""Attention with composed heads of which a tile does not fit into registers: pairs of a block in memory, head by head.

A program has SIZE queries, or keys, and memory of its own for the pairs of SIZE of the others, [heads, SIZE, SIZE]. It
lays the pairs out there with a product of two matrices for each head, goes over them in parts of PQ queries and PK keys
with all heads together, which fit into registers, and multiplies what it made of them with other rows, head by head.
Between these steps all threads wait, for each reads what others have written. See `composed_triton` for the passes.
"""
# mypy: ignore-errors

import triton
import triton.language as tl
from kernels.composed_triton import (
    LOWEST,
    add_dot,
    constants,
    first_key,
    mixed,
    normalised,
    places,
    planes,
    positions,
    query_block,
    seen,
)

NOTHING = tl.constexpr(-5e29)  # a logarithm below it is `LOWEST`, in whatever precision


@triton.jit
def lay(
    out, x, y, x_left, y_left, H: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr, SLICE: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`x . y` of every head, of rows x and y [rows, heads, D], into out [heads, SIZE, SIZE]."""
    r = tl.arange(0, SIZE)[:, None]
    c = tl.arange(0, SIZE)[None, :]
    for h in tl.range(0, H):
        sums = tl.zeros((SIZE, SIZE), ACC)
        for first in tl.static_range(0, D, SLICE):
            d = first + tl.arange(0, SLICE)
            row, column = d[None, :], d[:, None]
            left = tl.load(x + r * (H * D) + h * D + row, mask=(r < x_left) & (row < D), other=0.0)
            right = tl.load(y + c * (H * D) + h * D + column, mask=(c < y_left) & (column < D), other=0.0)
            sums = add_dot(sums, left, right, DOT, PRECISION)
        tl.store(out + h * (SIZE * SIZE) + r * SIZE + c, sums)


@triton.jit
def add_laid(
    out, pairs, y, out_left, y_left, ACROSS: tl.constexpr, H: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr,
    SLICE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds to rows out [rows, heads, D] the products of pairs [heads, SIZE, SIZE], ACROSS turned, and such rows y."""
    r = tl.arange(0, SIZE)[:, None]
    c = tl.arange(0, SIZE)[None, :]
    for h in tl.range(0, H):
        at = pairs + h * (SIZE * SIZE) + (c * SIZE + r if ACROSS else r * SIZE + c)
        own = tl.load(at)
        for first in tl.static_range(0, D, SLICE):
            d = first + tl.arange(0, SLICE)[None, :]
            other = tl.load(y + r * (H * D) + h * D + d, mask=(r < y_left) & (d < D), other=0.0)
            place = out + r * (H * D) + h * D + d
            there = (r < out_left) & (d < D)
            sums = tl.load(place, mask=there, other=0.0)
            tl.store(place, add_dot(sums, own, other, DOT, PRECISION), mask=there)


@triton.jit
def grow_planes(tokens, found, row, r, h, left, H: tl.constexpr, PLANES: tl.constexpr):
    """Adds to what `planes` reads, of the tokens r of which `left` are there."""
    held = places(tokens, row, r, h, left, H, PLANES)
    for i in tl.static_range(len(held)):
        at, there = held[i]
        tl.store(at, tl.load(at, mask=there, other=0.0) + found[i], mask=there)


@triton.jit
def normaliser(at, there):
    """The logarithm that `laid_forward` found; 0 for a query without keys."""
    found = tl.load(at, mask=there, other=LOWEST)
    return tl.where(found > NOTHING, found, 0.0)


@triton.jit
def own_pairs(pairs, H: tl.constexpr, SIZE: tl.constexpr):
    """The memory of this program."""
    program = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    return pairs + program * (H * SIZE * SIZE)


@triton.jit
def laid_forward(
    q, k, v, q_tokens, k_tokens, weights, q_after, k_after, w_after, pos, lse, y, pairs, T, S, WINDOW,
    BEFORE: tl.constexpr, BEFORE_Q: tl.constexpr, BEFORE_K: tl.constexpr, BEFORE_W: tl.constexpr,
    AFTER: tl.constexpr, AFTER_Q: tl.constexpr, AFTER_K: tl.constexpr, AFTER_W: tl.constexpr, PACKED: tl.constexpr,
    SCALE: tl.constexpr, H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, HP: tl.constexpr, SIZE: tl.constexpr,
    PQ: tl.constexpr, PK: tl.constexpr, SLICE: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds to y [B, T, H, E], in the precision of sums; lse [B, H, T] from `LOWEST` on. A grid of (T / SIZE, 1, B)."""
    q0, row = query_block(T, SIZE)
    batch = tl.program_id(2).to(tl.int64)
    h = tl.arange(0, HP)[:, None, None]
    r = tl.arange(0, PQ)[None, :, None]
    c = tl.arange(0, PK)[None, None, :]
    out = own_pairs(pairs, H, SIZE)
    own = tl.arange(0, SIZE)[None, :, None]
    end = tl.minimum(S - T + q0 + SIZE, S)
    start = first_key(S - T + q0 + own, positions(pos, row, own, T - q0, PACKED), end, WINDOW)
    ws = constants(weights, h, H, HP, BEFORE_W, DOT, ACC)
    ws_after = constants(w_after, h, H, HP, AFTER_W, DOT, ACC)
    for k0 in tl.range(start, end, SIZE):
        keys = k + (batch * S + k0) * (H * D)
        lay(out, q + row * (H * D), keys, T - q0, S - k0, H, D, SIZE, SLICE, DOT, ACC, PRECISION)
        tl.debug_barrier()
        for i in tl.range(0, SIZE, PQ):
            left = T - q0 - i
            place = positions(pos, row + i, r, left, PACKED)
            at = lse + batch * H * T + q0 + i + h * T + r
            there = (r < left) & (h < H)
            top = tl.load(at, mask=there, other=LOWEST)
            total = tl.where(top > NOTHING, 1.0, tl.zeros_like(top))
            qs = planes(q_tokens, row + i, r, h, left, H, BEFORE_Q)
            for j in tl.range(0, SIZE, PK):
                ks = planes(k_tokens, batch * S + k0 + j, c, h, S - k0 - j, H, BEFORE_K)
                a = tl.load(out + h * (SIZE * SIZE) + (i + r) * SIZE + j + c, mask=h < H, other=0.0)
                a = mixed(a * SCALE, qs, ks, ws, BEFORE)
                inside = seen(S - T + q0 + i + r, k0 + j + c, place, S, WINDOW)
                a = tl.where(inside, a, LOWEST)
                higher = tl.maximum(top, tl.max(a, 2, keep_dims=True))
                fresh = tl.where(inside, tl.exp(a - higher), 0.0)
                total = total * tl.exp(top - higher) + tl.sum(fresh, 2, keep_dims=True)
                top = higher
            found = tl.where(total > 0, top + tl.log(tl.where(total > 0, total, 1.0)), LOWEST)
            tl.store(at, found, mask=there)
        tl.debug_barrier()
    for k0 in tl.range(start, end, SIZE):
        k_row = batch * S + k0
        lay(out, q + row * (H * D), k + k_row * (H * D), T - q0, S - k0, H, D, SIZE, SLICE, DOT, ACC, PRECISION)
        tl.debug_barrier()
        for i in tl.range(0, SIZE, PQ):
            left = T - q0 - i
            place = positions(pos, row + i, r, left, PACKED)
            norm = normaliser(lse + batch * H * T + q0 + i + h * T + r, (r < left) & (h < H))
            for j in tl.range(0, SIZE, PK):
                qs = planes(q_tokens, row + i, r, h, left, H, BEFORE_Q)
                ks = planes(k_tokens, k_row + j, c, h, S - k0 - j, H, BEFORE_K)
                at = out + h * (SIZE * SIZE) + (i + r) * SIZE + j + c
                s = mixed(tl.load(at, mask=h < H, other=0.0) * SCALE, qs, ks, ws, BEFORE)
                p = normalised(s, norm, seen(S - T + q0 + i + r, k0 + j + c, place, S, WINDOW) & (h < H))
                qs = planes(q_after, row + i, r, h, left, H, AFTER_Q)
                ks = planes(k_after, k_row + j, c, h, S - k0 - j, H, AFTER_K)
                tl.store(at, mixed(p, qs, ks, ws_after, AFTER), mask=h < H)
        tl.debug_barrier()
        values = v + k_row * (H * E)
        add_laid(y + row * (H * E), out, values, T - q0, S - k0, False, H, E, SIZE, SLICE, DOT, PRECISION)
        tl.debug_barrier()
