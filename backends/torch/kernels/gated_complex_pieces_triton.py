"""Complex gated scans in pieces of time side by side, as Triton kernels: what each does, and the states between."""
# mypy: ignore-errors

import triton
import triton.language as tl
from kernels.gated_complex_tokens_triton import (
    complex_token_at,
    loaded,
    pair_at,
    pick,
    plus,
    read_grad,
    store_pair,
    times,
    turned,
)
from kernels.gated_tokens_triton import last_row, weights_at


@triton.jit
def _join(a_re, a_im, u_re, u_im, next_a_re, next_a_im, next_u_re, next_u_im):
    """What two successive pieces of time do to a state: `h -> a h + u`."""
    return (
        a_re * next_a_re - a_im * next_a_im,
        a_re * next_a_im + a_im * next_a_re,
        next_a_re * u_re - next_a_im * u_im + next_u_re,
        next_a_re * u_im + next_a_im * u_re + next_u_im,
    )


@triton.jit
def complex_pieces(
    xs, ws, pos, dys, states, decays, ends, T, C, L,
    G: tl.constexpr, OUT_GRAD: tl.constexpr, N: tl.constexpr, BEFORE: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """What each chunk does to the state (with dys, to the adjoint) that enters it: decay and end [B, chunks, 2, C].

    A row of the tile has L / S tokens to itself, so that nothing goes across threads before the last one. L is a
    multiple of S * K. states: parts of them [B, T, C], none where the derivative that OUT_GRAD gives does not depend on
    them; with BEFORE those before each token.
    """
    blocks = tl.cdiv(C, BC)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    chunk = tl.program_id(1)
    c = (tl.program_id(0) % blocks) * BC + tl.arange(0, BC)[None, :]
    some = c < C
    lo = chunk * L
    hi = tl.minimum(lo + L, T)
    part = L // S
    segment = tl.arange(0, S)[:, None]
    if len(dys) > 0:
        segment = S - 1 - segment
    row = b * T + lo
    at = row * C
    if pos is not None:
        pos += row
    w = weights_at(ws, c, some, N, ACC)
    zero = tl.zeros((S, BC), ACC)
    decay = (zero + 1.0, zero)
    end = (zero, zero)
    for tile in tl.range(0, part, K):
        for step in tl.static_range(K):
            if len(dys) > 0:
                t = segment * part + (part - 1 - tile - step)
            else:
                t = segment * part + (tile + step)
            inside = lo + t < hi
            x, a, u, first = complex_token_at(xs, at, w, pos, t, t * C + c, lo + t, inside, some, G, ACC)
            if len(dys) > 0:
                a = turned(a)
                d = loaded(dys, at, t * C + c, inside & some, ACC)
                if OUT_GRAD is not None:
                    h = (zero, zero)
                    if len(states) > 0:
                        h = loaded(states, at, t * C + c, inside & some, ACC)
                    d, _dx, _dw = read_grad(OUT_GRAD, h, x, w, d)
                    d = pick(inside, d, 0.0)
                if BEFORE:
                    end = plus(times(a, end), pick(first == 0, d, 0.0))
                else:
                    end = times(a, plus(end, d))
            else:
                end = plus(times(a, end), u)
            decay = times(decay, a)
    if S > 1:
        a_re, a_im, u_re, u_im = tl.associative_scan((decay[0], decay[1], end[0], end[1]), 0, _join)
        decay = (last_row(a_re, S), last_row(a_im, S))
        end = (last_row(u_re, S), last_row(u_im, S))
    piece = (b * tl.num_programs(1) + chunk) * 2 * C + c
    store_pair(decays, piece, C, decay, some)
    store_pair(ends, piece, C, end, some)


@triton.jit
def complex_carries(
    decays, ends, starts, carries, C, CHUNKS, REVERSE: tl.constexpr, BC: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """What enters each chunk [B, chunks, 2, C], given what enters the first, starts [B, 2, C] (REVERSE: the last)."""
    blocks = tl.cdiv(C, BC)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks) * BC + tl.arange(0, BC)
    some = c < C
    state = pair_at(starts, b * 2 * C + c, C, some, ACC)
    for step in tl.range(CHUNKS):
        chunk = step
        if REVERSE:
            chunk = CHUNKS - 1 - step
        at = (b * CHUNKS + chunk) * 2 * C + c
        store_pair(carries, at, C, state, some)
        state = plus(times(pair_at(decays, at, C, some, ACC), state), pair_at(ends, at, C, some, ACC))
