"""The gradients of the selective scan as a Triton kernel, whose programs have the channels of those that went forward.

A program walks a chunk again from the state that is kept before it, notes the state before every BLOCK tokens in
scratch memory that stays in the cache, and goes back block by block. Gradients of what all channels or all sequences
share are sums per program, added up outside, in an order that never changes.
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
    place_of,
    read_states,
    row_of,
    rows_of,
    shared_row,
    tiles_at,
    weights_of,
    zeros_of,
)


@triton.jit
def _store(pointers, offsets, tiles, mask):
    for i in tl.static_range(len(pointers)):
        tl.store(pointers[i] + offsets, tiles[i].to(pointers[i].dtype.element_ty), mask=mask)


@triton.jit
def _tiles(pointer, COUNT: tl.constexpr, stride, mask):
    tiles = ()
    for i in tl.static_range(COUNT):
        tiles = tiles + (tl.load(pointer + i * stride, mask=mask, other=0.0),)
    return tiles


@triton.jit
def _replay(
    xs, w, A, keys, queries, pos, notes, reads, base, first, time, channels, c, end, here,
    STATES: tl.constexpr, GROUP: tl.constexpr, KEYS: tl.constexpr, QUERIES: tl.constexpr, GATES: tl.constexpr,
    READ: tl.constexpr, PACKED: tl.constexpr, SIZE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
    ACC: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Write the state after every block of a chunk to notes [blocks + 1, N, SIZE], and y to reads [CHUNK, SIZE]."""
    for start in range(first, tl.minimum(first + CHUNK, time), BLOCK):
        dts, vs, resets = gates_of(xs, w, pos, base, start, time, channels, c, end, here, GATES, PACKED, BLOCK, ACC)
        ys = zeros_of(BLOCK, SIZE, ACC)
        tl.debug_barrier()
        for n in range(0, STATES, GROUP):
            note = notes + ((start - first) // BLOCK * STATES + n) * SIZE
            hs = _tiles(note, GROUP, SIZE, here)
            rates = _tiles(A + n * channels + c, GROUP, channels, here)
            for i in tl.static_range(GROUP):
                keys_n = rows_of(keys, base, start, time, n + i, KEYS[0] * STATES, BLOCK, ACC)
                states, _ = advance(hs[i], rates[i] * LOG2E, dts, vs, resets, keys_n, PACKED, BLOCK, FAST)
                tl.store(note + (STATES + i) * SIZE, states[BLOCK - 1])
                if READ:
                    queries_n = rows_of(queries, base, start, time, n + i, QUERIES[0] * STATES, BLOCK, ACC)
                    ys = read_states(ys, states, queries_n, BLOCK)
        if READ:
            for k in tl.static_range(BLOCK):
                tl.store(reads + (start - first + k) * SIZE, ys[k])
    tl.debug_barrier()


@triton.jit
def _incoming(
    xs, w, dy, reads, base, start, first, time, channels, c, end, here,
    OUT_GRAD: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The gradients of the y of a block."""
    out = ()
    for k in tl.static_range(BLOCK):
        inside = inside_of(c, start + k, time, end)
        row = row_of(base, start + k, time) * channels + c
        d = tl.load(dy + row, mask=inside, other=0.0).to(ACC)
        if OUT_GRAD is not None:
            d, _, _ = OUT_GRAD(tl.load(reads + (start - first + k) * SIZE), tiles_at(xs, row, here, ACC), w, d)
            d = tl.where(inside, d, 0.0)
        out = out + (d,)
    return out


@triton.jit
def _back(
    h, e, rate, dts, vs, resets, dys, d_dts, d_vs, keys, queries,
    PACKED: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """One state back through a block that begins from h, with the adjoint `e[t] = a[t] g[t]` that enters at its end.

    `g[t] = dy[t] C[t] + e[t+1]`, and `e[t] h[t-1]` is the gradient of the log decay. Returns the adjoint that leaves,
    the gradient of the rate, those of dt and v grown by this state's share, and those of its keys and queries.
    """
    states, decays = advance(h, rate * LOG2E, dts, vs, resets, keys, PACKED, BLOCK, FAST)
    new_dts, new_vs, d_keys, d_queries, d_rate = (), (), (), (), 0.0 * h
    for k in tl.static_range(BLOCK - 1, -1, -1):
        g = e + dys[k] * queries[k]
        d_queries = (_over_groups(dys[k] * states[k], WIDTH, SIZE),) + d_queries
        d_keys = (_over_groups(vs[k] * g, WIDTH, SIZE),) + d_keys
        new_vs = (d_vs[k] + g * keys[k],) + new_vs
        e = decays[k] * g
        if k > 0:
            d_log = e * states[k - 1]
        else:
            d_log = e * h
        new_dts = (d_dts[k] + d_log * rate,) + new_dts
        d_rate += d_log * dts[k]
    return e, d_rate, new_dts, new_vs, d_keys, d_queries


@triton.jit
def _over_groups(x, WIDTH: tl.constexpr, SIZE: tl.constexpr):
    """The sum over the channels of a program, or of each of its groups."""
    if WIDTH == SIZE:
        return tl.sum(x, 0)
    else:
        return tl.sum(x.reshape(SIZE // WIDTH, WIDTH), 1)


@triton.jit
def _store_rows(pointer, row, start, time, n, values, ROW: tl.constexpr, BLOCK: tl.constexpr):
    for k in tl.static_range(BLOCK):
        tl.store(pointer + (row + start + k) * ROW + n, values[k], mask=start + k < time)


@triton.jit
def _outgoing(
    xs, w, dxs, dws, pos, dy, reads, d_dts, d_vs, base, start, first, time, channels, c, end, here,
    GATES_GRAD: tl.constexpr, OUT_GRAD: tl.constexpr, PACKED: tl.constexpr, SIZE: tl.constexpr,
    BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Store the gradients of the tokens of a block; returns those of the weights, grown by its share."""
    for k in tl.static_range(BLOCK):
        inside = inside_of(c, start + k, time, end)
        row = row_of(base, start + k, time) * channels + c
        x = tiles_at(xs, row, here, ACC)
        dx, dw = GATES_GRAD(x, w, place_of(pos, base, start + k, time, PACKED) + 0 * c == 0, d_dts[k], d_vs[k])
        if OUT_GRAD is not None:
            d = tl.load(dy + row, mask=inside, other=0.0).to(ACC)
            _, more, shares = OUT_GRAD(tl.load(reads + (start - first + k) * SIZE), x, w, d)
            dx, dw = _sum(dx, more), _sum(dw, shares)
        _store(dxs, row, dx, inside)
        new = ()
        for i in tl.static_range(len(dws)):
            new = new + (dws[i] + tl.where(inside, dw[i], 0.0),)
        dws = new
    return dws


@triton.jit
def _sum(left, right):
    out = ()
    for i in tl.static_range(len(left)):
        out = out + (left[i] + right[i],)
    return out


@triton.jit
def selective_backward(
    xs, ws, A, keys, queries, pos, carries, dy, dxs, dws, dA, dkeys, dqueries, dstate, notes, reads, time, channels,
    each, STATES: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr, KEYS: tl.constexpr, QUERIES: tl.constexpr,
    GATES: tl.constexpr, GATES_GRAD: tl.constexpr, OUT_GRAD: tl.constexpr, NUMBERS: tl.constexpr,
    PACKED: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
    ACC: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """The grid and the shapes of `selective_forward`, but A: [N, C]. dws: [B, C]. dA, dstate: [B, N, C].

    dstate holds the gradient of the last state and in the end that of the first; dA begins at zero. dkeys, dqueries:
    [programs of a group, B, T, GROUPS, N]. Scratch: notes [programs, CHUNK / BLOCK + 1, N, SIZE], and reads
    [programs, CHUNK, SIZE] where there is a read-out. GROUP divides N: so many states at a time, what lasts of the
    others is in memory.
    """
    lane = tl.arange(0, SIZE)
    c, end, group = channels_of(tl.program_id(0), channels, each, GROUPS, WIDTH, SIZE)
    here = c < end
    keys += shared_row(group, KEYS, GROUPS) * STATES
    queries += shared_row(group, QUERIES, GROUPS) * STATES
    batch = tl.program_id(1).to(tl.int64)
    base = batch * time
    own = batch * STATES * channels + c
    program = tl.program_id(0) * tl.num_programs(1).to(tl.int64) + batch
    share, until = program * time, time
    if GROUPS > 1:
        part = tl.program_id(0) % tl.cdiv(each, WIDTH)  # zero if a program has several groups
        share = (part * tl.num_programs(1).to(tl.int64) + batch) * time
        if WIDTH < SIZE:
            group = tl.program_id(0) * (SIZE // WIDTH) + tl.arange(0, SIZE // WIDTH)
            until = tl.where(group < GROUPS, time, 0)
        dkeys += group * STATES
        dqueries += group * STATES
    notes += program * (CHUNK // BLOCK + 1) * STATES * SIZE + lane
    if OUT_GRAD is not None:
        reads += program * CHUNK * SIZE + lane
    w = weights_of(ws, c, here, NUMBERS, ACC)
    d_w = zeros_of(len(ws), SIZE, ACC)
    chunks = (time + CHUNK - 1) // CHUNK
    for passed in range(chunks):
        chunk = chunks - 1 - passed
        first = chunk * CHUNK
        for n in range(STATES):
            carry = carries + ((batch * chunks + chunk) * STATES + n) * channels + c
            tl.store(notes + n * SIZE, tl.load(carry, mask=here, other=0.0))
        _replay(
            xs, w, A, keys, queries, pos, notes, reads, base, first, time, channels, c, end, here,
            STATES, GROUP, KEYS, QUERIES, GATES, OUT_GRAD is not None, PACKED, SIZE, CHUNK, BLOCK, ACC, FAST,
        )  # fmt: skip
        blocks = (tl.minimum(time - first, CHUNK) + BLOCK - 1) // BLOCK
        for gone in range(blocks):
            block = blocks - 1 - gone
            start = first + block * BLOCK
            dts, vs, resets = gates_of(
                xs, w, pos, base, start, time, channels, c, end, here, GATES, PACKED, BLOCK, ACC
            )  # fmt: skip
            dys = _incoming(
                xs, w, dy, reads, base, start, first, time, channels, c, end, here, OUT_GRAD, SIZE, BLOCK, ACC
            )  # fmt: skip
            d_dts, d_vs = zeros_of(BLOCK, SIZE, ACC), zeros_of(BLOCK, SIZE, ACC)
            for n in range(0, STATES, GROUP):
                hs = _tiles(notes + (block * STATES + n) * SIZE, GROUP, SIZE, here)
                es = _tiles(dstate + own + n * channels, GROUP, channels, here)
                d_rates = _tiles(dA + own + n * channels, GROUP, channels, here)
                rates = _tiles(A + n * channels + c, GROUP, channels, here)
                for i in tl.static_range(GROUP):
                    keys_n = rows_of(keys, base, start, time, n + i, KEYS[0] * STATES, BLOCK, ACC)
                    queries_n = rows_of(queries, base, start, time, n + i, QUERIES[0] * STATES, BLOCK, ACC)
                    e, d_rate, d_dts, d_vs, d_keys, d_queries = _back(
                        hs[i], es[i], rates[i], dts, vs, resets, dys, d_dts, d_vs, keys_n, queries_n,
                        PACKED, WIDTH, SIZE, BLOCK, FAST,
                    )  # fmt: skip
                    tl.store(dstate + own + (n + i) * channels, e, mask=here)
                    tl.store(dA + own + (n + i) * channels, d_rates[i] + d_rate, mask=here)
                    _store_rows(dkeys, share, start, until, n + i, d_keys, GROUPS * STATES, BLOCK)
                    _store_rows(dqueries, share, start, until, n + i, d_queries, GROUPS * STATES, BLOCK)
            d_w = _outgoing(
                xs, w, dxs, d_w, pos, dy, reads, d_dts, d_vs, base, start, first, time, channels, c, end, here,
                GATES_GRAD, OUT_GRAD, PACKED, SIZE, BLOCK, ACC,
            )  # fmt: skip
            tl.debug_barrier()
    _store(dws, batch * channels + c, d_w, here)
