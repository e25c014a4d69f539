"""Gated scans in pieces of time side by side, as Triton kernels: what each does to a state, and the states between."""
# mypy: ignore-errors

import triton
import triton.language as tl
from kernels.gated_tokens_triton import last_row, token_at, weights_at


@triton.jit
def _join(decay, end, next_decay, next_end):
    """What two successive pieces of time do to a state: `h -> decay h + end`."""
    return decay * next_decay, next_decay * end + next_end


@triton.jit
def scan_pieces(
    xs, ws, pos, dy, states, decays, ends, T, C, L,
    G: tl.constexpr, OUT_GRAD: tl.constexpr, N: tl.constexpr, BEFORE: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """What each chunk does to the state (with dy, to the adjoint) that enters it: decay and end [B, chunks, C].

    A row of the tile has L / S tokens to itself, so that nothing goes across threads before the last one. L is a
    multiple of S * K. states: [B, T, C], or None where the derivative that OUT_GRAD gives does not depend on them; with
    BEFORE those before each token.
    """
    blocks = tl.cdiv(C, BC)
    b = tl.program_id(0) // blocks
    chunk = tl.program_id(1)
    c = (tl.program_id(0) % blocks) * BC + tl.arange(0, BC)[None, :]
    some = c < C
    lo = chunk * L
    hi = tl.minimum(lo + L, T)
    part = L // S
    segment = tl.arange(0, S)[:, None]
    if dy is not None:
        segment = S - 1 - segment
    row = b.to(tl.int64) * T + lo
    if pos is not None:
        pos += row
    if dy is not None:
        dy += row * C
    w = weights_at(ws, c, some, N, ACC)
    decay = tl.full((S, BC), 1.0, ACC)
    end = tl.zeros((S, BC), ACC)
    for tile in tl.range(0, part, K):
        for step in tl.static_range(K):
            if dy is not None:
                t = segment * part + (part - 1 - tile - step)
            else:
                t = segment * part + (tile + step)
            inside = lo + t < hi
            x, a, u, first = token_at(xs, row * C, w, pos, t, t * C + c, lo + t, inside, some, G, ACC)
            if dy is not None:
                d = tl.load(dy + (t * C + c), mask=inside & some, other=0.0).to(ACC)
                if OUT_GRAD is not None:
                    h = d
                    if states is not None:
                        h = tl.load(states + row * C + (t * C + c), mask=inside & some, other=0.0)
                    d, _dx, _dw = OUT_GRAD(h, x, w, d)
                    d = tl.where(inside, d, 0.0)
                if BEFORE:
                    end = a * end + tl.where(first, 0.0, d)
                else:
                    end = a * (end + d)
            else:
                end = a * end + u
            decay = decay * a
    if S > 1:
        decay, end = tl.associative_scan((decay, end), 0, _join)
    piece = (b.to(tl.int64) * tl.num_programs(1) + chunk) * C
    tl.store(decays + piece + c, last_row(decay, S), mask=some)
    tl.store(ends + piece + c, last_row(end, S), mask=some)


@triton.jit
def scan_carries(
    decays, ends, starts, carries, C, CHUNKS, REVERSE: tl.constexpr, BC: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """What enters each chunk [B, chunks, C], given what enters the first, starts [B, C] (REVERSE: the last)."""
    blocks = tl.cdiv(C, BC)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks) * BC + tl.arange(0, BC)
    some = c < C
    state = tl.zeros((BC,), ACC)
    if starts is not None:
        state = tl.load(starts + b * C + c, mask=some, other=0.0).to(ACC)
    for step in tl.range(CHUNKS):
        chunk = step
        if REVERSE:
            chunk = CHUNKS - 1 - step
        at = (b * CHUNKS + chunk) * C
        tl.store(carries + at + c, state, mask=some)
        state = tl.load(decays + at + c, mask=some, other=0.0) * state
        state += tl.load(ends + at + c, mask=some, other=0.0)
