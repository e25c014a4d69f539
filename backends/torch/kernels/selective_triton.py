"""The selective scan as a Triton kernel: all N states of a channel in registers, one token after another.

A program walks the time of 32 or 64 channels of one sequence with one warp. Gates in front of the scan and a read-out
behind it come as device functions, so that neither dt, nor v, nor y is ever a tensor in memory. The state before every
CHUNK tokens is kept for the backward pass, `selective_back_triton.py`.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005 (Triton adds tuples, and unpacks none)

import triton
import triton.language as tl
from kernels.selective_tokens_triton import (
    LOG2E,
    advance,
    channels_of,
    gates_of,
    inside_of,
    read_states,
    row_of,
    rows_of,
    shared_row,
    tiles_at,
    weights_of,
    zeros_of,
)


@triton.jit
def selective_forward(
    xs, ws, A, keys, queries, pos, state, y, last, carries, time, channels, each,
    STATES: tl.constexpr, GROUPS: tl.constexpr, KEYS: tl.constexpr, QUERIES: tl.constexpr, GATES: tl.constexpr,
    OUT: tl.constexpr, NUMBERS: tl.constexpr, PACKED: tl.constexpr, CONTINUED: tl.constexpr, KEEP: tl.constexpr,
    WIDTH: tl.constexpr, SIZE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
    FAST: tl.constexpr,
):  # fmt: skip
    """A grid of (channels / SIZE, B). xs, y: [B, T, C]. ws: [C]. A: [C, N]. keys, queries: [B, T, rows, N], of which
    `shared_row` finds that of a group. pos: [B, T]. state, last: [B, C, N]. carries: [B, T / CHUNK, N, C], written if
    KEEP. WIDTH lanes are of one group, which has `each` channels; the grid is of so many programs as all groups fill.
    """
    c, end, group = channels_of(tl.program_id(0), channels, each, GROUPS, WIDTH, SIZE)
    here = c < end
    keys += shared_row(group, KEYS, GROUPS) * STATES
    queries += shared_row(group, QUERIES, GROUPS) * STATES
    batch = tl.program_id(1).to(tl.int64)
    base = batch * time
    own = (batch * channels + c) * STATES
    w = weights_of(ws, c, here, NUMBERS, ACC)
    h, rates = (), ()
    for n in tl.static_range(STATES):
        rates = rates + (tl.load(A + c * STATES + n, mask=here, other=0.0).to(ACC) * LOG2E,)
        if CONTINUED:
            h = h + (tl.load(state + own + n, mask=here, other=0.0).to(ACC),)
        else:
            h = h + (tl.full((SIZE,), 0.0, ACC),)
    chunks = (time + CHUNK - 1) // CHUNK
    for chunk in range(chunks):
        if KEEP:
            for n in tl.static_range(STATES):
                tl.store(carries + ((batch * chunks + chunk) * STATES + n) * channels + c, h[n], mask=here)
        for start in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, time), BLOCK):
            dts, vs, resets = gates_of(
                xs, w, pos, base, start, time, channels, c, end, here, GATES, PACKED, BLOCK, ACC
            )  # fmt: skip
            ys, ends = zeros_of(BLOCK, SIZE, ACC), ()
            for n in tl.static_range(STATES):
                keys_n = rows_of(keys, base, start, time, n, KEYS[0] * STATES, BLOCK, ACC)
                states, _ = advance(h[n], rates[n], dts, vs, resets, keys_n, PACKED, BLOCK, FAST)
                queries_n = rows_of(queries, base, start, time, n, QUERIES[0] * STATES, BLOCK, ACC)
                ys = read_states(ys, states, queries_n, BLOCK)
                ends = ends + (states[BLOCK - 1],)
            h = ends
            for k in tl.static_range(BLOCK):
                row = row_of(base, start + k, time) * channels + c
                out = ys[k]
                if OUT is not None:
                    out = OUT(out, tiles_at(xs, row, here, ACC), w)
                tl.store(y + row, out.to(y.dtype.element_ty), mask=inside_of(c, start + k, time, end))
    for n in tl.static_range(STATES):
        tl.store(last + own + n, h[n], mask=here)
