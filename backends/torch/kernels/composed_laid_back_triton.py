"""The backward passes of `composed_laid_triton`: queries, then keys; what they compute see `composed_back_triton`."""
# mypy: ignore-errors

import triton
import triton.language as tl
from kernels.composed_back_triton import add_planes, empty_planes, mixed_back, queries_of, store_constants
from kernels.composed_laid_triton import add_laid, grow_planes, lay, normaliser, own_pairs
from kernels.composed_triton import constants, first_key, mixed, normalised, planes, positions, query_block, seen


@triton.jit
def laid_back_queries(
    q, k, v, dy, q_tokens, k_tokens, weights, q_after, k_after, w_after, pos, lse, delta, dq, q_shares, q_shares_after,
    w_shares, w_shares_after, pairs, slopes, T, S, WINDOW,
    BEFORE: tl.constexpr, BEFORE_Q: tl.constexpr, BEFORE_K: tl.constexpr, BEFORE_W: tl.constexpr,
    AFTER: tl.constexpr, AFTER_Q: tl.constexpr, AFTER_K: tl.constexpr, AFTER_W: tl.constexpr, PACKED: tl.constexpr,
    SCALE: tl.constexpr, H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, HP: tl.constexpr, SIZE: tl.constexpr,
    PQ: tl.constexpr, PK: tl.constexpr, SLICE: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr, BEFORE_GRAD: tl.constexpr, AFTER_GRAD: tl.constexpr,
):  # fmt: skip
    """Adds to delta, dq and the gradients of tokens of queries, all zero before, in the precision of sums.

    Weights get a share of each program, [programs, planes, heads or 1] or [programs, H, H]. A grid of (T / SIZE, 1, B).
    """
    q0, row = query_block(T, SIZE)
    batch = tl.program_id(2).to(tl.int64)
    h = tl.arange(0, HP)[:, None, None]
    r = tl.arange(0, PQ)[None, :, None]
    c = tl.arange(0, PK)[None, None, :]
    out = own_pairs(pairs, H, SIZE)
    back = own_pairs(slopes, H, SIZE)
    own = tl.arange(0, SIZE)[None, :, None]
    end = tl.minimum(S - T + q0 + SIZE, S)
    start = first_key(S - T + q0 + own, positions(pos, row, own, T - q0, PACKED), end, WINDOW)
    ws = constants(weights, h, H, HP, BEFORE_W, DOT, ACC)
    ws_after = constants(w_after, h, H, HP, AFTER_W, DOT, ACC)
    of_weights = empty_planes(HP, 1, 1, BEFORE_W, ACC)
    of_weights_after = empty_planes(HP, 1, 1, AFTER_W, ACC)
    for step in tl.static_range(2):  # delta, then what needs it
        for k0 in tl.range(start, end, SIZE):
            k_row = batch * S + k0
            keys = k + k_row * (H * D)
            lay(out, q + row * (H * D), keys, T - q0, S - k0, H, D, SIZE, SLICE, DOT, ACC, PRECISION)
            values = v + k_row * (H * E)
            lay(back, dy + row * (H * E), values, T - q0, S - k0, H, E, SIZE, SLICE, DOT, ACC, PRECISION)
            tl.debug_barrier()
            for i in tl.range(0, SIZE, PQ):
                left = T - q0 - i
                place = positions(pos, row + i, r, left, PACKED)
                at_query = batch * H * T + q0 + i + h * T + r
                there = (r < left) & (h < H)
                norm = normaliser(lse + at_query, there)
                mean = tl.load(delta + at_query, mask=there, other=0.0)
                if step == 0:
                    of_queries = empty_planes(HP, PQ, 1, AFTER_Q, ACC)
                else:
                    of_queries = empty_planes(HP, PQ, 1, BEFORE_Q, ACC)
                for j in tl.range(0, SIZE, PK):
                    inside = seen(S - T + q0 + i + r, k0 + j + c, place, S, WINDOW) & (h < H)
                    at = h * (SIZE * SIZE) + (i + r) * SIZE + j + c
                    qs = planes(q_tokens, row + i, r, h, left, H, BEFORE_Q)
                    ks = planes(k_tokens, k_row + j, c, h, S - k0 - j, H, BEFORE_K)
                    a = tl.load(out + at, mask=h < H, other=0.0) * SCALE
                    p = normalised(mixed(a, qs, ks, ws, BEFORE), norm, inside)
                    qs_after = planes(q_after, row + i, r, h, left, H, AFTER_Q)
                    ks_after = planes(k_after, k_row + j, c, h, S - k0 - j, H, AFTER_K)
                    d = tl.where(inside, tl.load(back + at, mask=h < H, other=0.0), 0.0)
                    d, of_q, _, of_w = mixed_back(p, qs_after, ks_after, ws_after, d, AFTER_GRAD, 1, 2)
                    d = tl.where(inside, d, 0.0)
                    if step == 0:
                        mean += tl.sum(p * d, 2, keep_dims=True)
                        of_weights_after = add_planes(of_weights_after, of_w)
                    else:
                        d, of_q, _, of_w = mixed_back(a, qs, ks, ws, p * (d - mean), BEFORE_GRAD, 1, 2)
                        tl.store(out + at, d * SCALE, mask=h < H)
                        of_weights = add_planes(of_weights, of_w)
                    of_queries = add_planes(of_queries, of_q)
                if step == 0:
                    tl.store(delta + at_query, mean, mask=there)
                    grow_planes(q_shares_after, of_queries, row + i, r, h, left, H, AFTER_Q)
                else:
                    grow_planes(q_shares, of_queries, row + i, r, h, left, H, BEFORE_Q)
            tl.debug_barrier()
            if step == 1:
                add_laid(dq + row * (H * D), out, keys, T - q0, S - k0, False, H, D, SIZE, SLICE, DOT, PRECISION)
                tl.debug_barrier()
    program = batch * tl.num_programs(0) + tl.program_id(0)
    once = tl.program_id(1) == 0
    store_constants(w_shares, of_weights, program, h, once, H, HP, BEFORE_W)
    store_constants(w_shares_after, of_weights_after, program, h, once, H, HP, AFTER_W)


@triton.jit
def laid_back_keys(
    q, k, v, dy, q_tokens, k_tokens, weights, q_after, k_after, w_after, pos, ends, lse, delta, dk, dv, k_shares,
    k_shares_after, pairs, slopes, T, S, WINDOW,
    BEFORE: tl.constexpr, BEFORE_Q: tl.constexpr, BEFORE_K: tl.constexpr, BEFORE_W: tl.constexpr,
    AFTER: tl.constexpr, AFTER_Q: tl.constexpr, AFTER_K: tl.constexpr, AFTER_W: tl.constexpr, PACKED: tl.constexpr,
    SCALE: tl.constexpr, H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, HP: tl.constexpr, SIZE: tl.constexpr,
    PQ: tl.constexpr, PK: tl.constexpr, SLICE: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr, BEFORE_GRAD: tl.constexpr, AFTER_GRAD: tl.constexpr,
):  # fmt: skip
    """Adds to dk, dv and the gradients of tokens of keys, all zero before. A grid of (S / SIZE, 1, B).

    ends: see `queries_of`.
    """
    k0 = tl.program_id(0) * SIZE
    batch = tl.program_id(2).to(tl.int64)
    k_row = batch * S + k0
    h = tl.arange(0, HP)[:, None, None]
    r = tl.arange(0, PQ)[None, :, None]
    c = tl.arange(0, PK)[None, None, :]
    out = own_pairs(pairs, H, SIZE)
    back = own_pairs(slopes, H, SIZE)
    ws = constants(weights, h, H, HP, BEFORE_W, DOT, ACC)
    ws_after = constants(w_after, h, H, HP, AFTER_W, DOT, ACC)
    start, end = queries_of(ends, k0, T, S, WINDOW, PACKED, SIZE)
    for q0 in tl.range(start, end, SIZE):
        row = batch * T + q0
        queries = q + row * (H * D)
        lay(out, queries, k + k_row * (H * D), T - q0, S - k0, H, D, SIZE, SLICE, DOT, ACC, PRECISION)
        lay(back, dy + row * (H * E), v + k_row * (H * E), T - q0, S - k0, H, E, SIZE, SLICE, DOT, ACC, PRECISION)
        tl.debug_barrier()
        for j in tl.range(0, SIZE, PK):
            of_keys = empty_planes(HP, 1, PK, BEFORE_K, ACC)
            of_keys_after = empty_planes(HP, 1, PK, AFTER_K, ACC)
            for i in tl.range(0, SIZE, PQ):
                left = T - q0 - i
                place = positions(pos, row + i, r, left, PACKED)
                at_query = batch * H * T + q0 + i + h * T + r
                there = (r < left) & (h < H)
                norm = normaliser(lse + at_query, there)
                mean = tl.load(delta + at_query, mask=there, other=0.0)
                inside = seen(S - T + q0 + i + r, k0 + j + c, place, S, WINDOW) & (h < H)
                at = h * (SIZE * SIZE) + (i + r) * SIZE + j + c
                qs = planes(q_tokens, row + i, r, h, left, H, BEFORE_Q)
                ks = planes(k_tokens, k_row + j, c, h, S - k0 - j, H, BEFORE_K)
                a = tl.load(out + at, mask=h < H, other=0.0) * SCALE
                p = normalised(mixed(a, qs, ks, ws, BEFORE), norm, inside)
                qs_after = planes(q_after, row + i, r, h, left, H, AFTER_Q)
                ks_after = planes(k_after, k_row + j, c, h, S - k0 - j, H, AFTER_K)
                d = tl.where(inside, tl.load(back + at, mask=h < H, other=0.0), 0.0)
                tl.store(back + at, mixed(p, qs_after, ks_after, ws_after, AFTER), mask=h < H)
                d, _, of_k, _ = mixed_back(p, qs_after, ks_after, ws_after, d, AFTER_GRAD, 1, 2)
                of_keys_after = add_planes(of_keys_after, of_k)
                d, _, of_k, _ = mixed_back(a, qs, ks, ws, p * (tl.where(inside, d, 0.0) - mean), BEFORE_GRAD, 1, 2)
                tl.store(out + at, d * SCALE, mask=h < H)
                of_keys = add_planes(of_keys, of_k)
            grow_planes(k_shares, of_keys, k_row + j, c, h, S - k0 - j, H, BEFORE_K)
            grow_planes(k_shares_after, of_keys_after, k_row + j, c, h, S - k0 - j, H, AFTER_K)
        tl.debug_barrier()
        add_laid(dk + k_row * (H * D), out, queries, S - k0, T - q0, True, H, D, SIZE, SLICE, DOT, PRECISION)
        slope = dy + row * (H * E)
        add_laid(dv + k_row * (H * E), back, slope, S - k0, T - q0, True, H, E, SIZE, SLICE, DOT, PRECISION)
        tl.debug_barrier()
