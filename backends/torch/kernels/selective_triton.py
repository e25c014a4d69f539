"""The selective scan as two Triton kernels: all N states of a channel in registers, one token after another.

A program walks the time of 32 or 64 channels of one sequence with one warp. Gates in front of the scan and a read-out
behind it come as device functions, so that neither dt, nor v, nor y is ever a tensor in memory. The forward kernel
keeps the state before every CHUNK tokens; the backward kernel walks a chunk again from there, notes the state before
every BLOCK tokens in scratch memory that stays in the cache, and goes back block by block. Gradients of what all
channels or all sequences share are sums per program, added up outside, in an order that never changes.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005 (Triton adds tuples, and unpacks none)

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def identity_gates(x, w, first):
    """dt and v of tokens (v, dt)."""
    return x[1], x[0]


@triton.jit
def identity_gates_grad(x, w, first, d_dt, d_v):
    """The derivative of `identity_gates`."""
    return (d_v, d_dt), ()


@triton.jit
def _exp2(x, FAST: tl.constexpr):
    """FAST: one instruction, exact to two units in the last place, tiny results become zero."""
    if FAST:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.exp2(x)


@triton.jit
def _load(pointers, offsets, mask, ACC: tl.constexpr):
    tiles = ()
    for i in tl.static_range(len(pointers)):
        tiles = tiles + (tl.load(pointers[i] + offsets, mask=mask, other=0.0).to(ACC),)
    return tiles


@triton.jit
def _weights(ws, c, here, NUMBERS: tl.constexpr, ACC: tl.constexpr):
    """The weights of the channels c, and behind them the numbers."""
    w = _load(ws, c, here, ACC)
    for i in tl.static_range(len(NUMBERS)):
        w = w + (NUMBERS[i],)
    return w


@triton.jit
def _store(pointers, offsets, tiles, mask):
    for i in tl.static_range(len(pointers)):
        tl.store(pointers[i] + offsets, tiles[i].to(pointers[i].dtype.element_ty), mask=mask)


@triton.jit
def _zeros(COUNT: tl.constexpr, SIZE: tl.constexpr, ACC: tl.constexpr):
    tiles = ()
    for _ in tl.static_range(COUNT):
        tiles = tiles + (tl.full((SIZE,), 0.0, ACC),)
    return tiles


@triton.jit
def _row(base, t, time):
    """The row of a token in [B T, ...]; past the end the last one, which is safe to read."""
    return base + tl.minimum(t, time - 1)


@triton.jit
def _inside(c, t, time, channels):
    """Which channels are there, and none of them past the end of time."""
    return c < tl.where(t < time, channels, 0)


@triton.jit
def _place(pos, base, t, time, PACKED: tl.constexpr):
    """The position of a token in its document."""
    if PACKED:
        return tl.load(pos + _row(base, t, time)).to(tl.int32)
    else:
        return t


@triton.jit
def _gate(
    xs, w, pos, base, start, time, channels, c, here,
    GATES: tl.constexpr, PACKED: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dt, v and what a start adds to the log decay, of the tokens of a block; past the end nothing moves."""
    dts, vs, resets = (), (), ()
    for k in tl.static_range(BLOCK):
        x = _load(xs, _row(base, start + k, time) * channels + c, here, ACC)
        place = _place(pos, base, start + k, time, PACKED)
        dt, v = GATES(x, w, place + 0 * c == 0)
        inside = _inside(c, start + k, time, channels)
        dts = dts + (tl.where(inside, dt, 0.0),)
        vs = vs + (tl.where(inside, v, 0.0),)
        resets = resets + (tl.where((place == 0) & (start + k < time), float("-inf"), 0.0).to(ACC),)
    return dts, vs, resets


@triton.jit
def _advance(h, rate, dts, vs, resets, keys, PACKED: tl.constexpr, BLOCK: tl.constexpr, FAST: tl.constexpr):
    """One state through a block from h: the states after each token, and the decays. rate: A log2(e)."""
    states, decays = (), ()
    for k in tl.static_range(BLOCK):
        power = dts[k] * rate
        if PACKED:
            power += resets[k]
        a = _exp2(power, FAST)
        h = a * h + vs[k] * keys[k]
        states = states + (h,)
        decays = decays + (a,)
    return states, decays


@triton.jit
def _read(ys, states, queries, BLOCK: tl.constexpr):
    out = ()
    for k in tl.static_range(BLOCK):
        out = out + (ys[k] + queries[k] * states[k],)
    return out


@triton.jit
def selective_forward(
    xs, ws, A, keys, queries, pos, state, y, last, carries, time, channels,
    STATES: tl.constexpr, GATES: tl.constexpr, OUT: tl.constexpr, NUMBERS: tl.constexpr, PACKED: tl.constexpr,
    CONTINUED: tl.constexpr, KEEP: tl.constexpr, SIZE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
    ACC: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """A grid of (channels / SIZE, B). xs, y: [B, T, C]. ws: [C]. A: [C, N]. keys, queries: [B, T, N]. pos: [B, T].

    state, last: [B, C, N]. carries: [B, T / CHUNK, N, C], written if KEEP.
    """
    c = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    here = c < channels
    batch = tl.program_id(1).to(tl.int64)
    base = batch * time
    own = (batch * channels + c) * STATES
    w = _weights(ws, c, here, NUMBERS, ACC)
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
            dts, vs, resets = _gate(xs, w, pos, base, start, time, channels, c, here, GATES, PACKED, BLOCK, ACC)
            ys, ends = _zeros(BLOCK, SIZE, ACC), ()
            for n in tl.static_range(STATES):
                keys_n = _rows(keys, base, start, time, n, STATES, BLOCK, ACC)
                states, _ = _advance(h[n], rates[n], dts, vs, resets, keys_n, PACKED, BLOCK, FAST)
                ys = _read(ys, states, _rows(queries, base, start, time, n, STATES, BLOCK, ACC), BLOCK)
                ends = ends + (states[BLOCK - 1],)
            h = ends
            for k in tl.static_range(BLOCK):
                row = _row(base, start + k, time) * channels + c
                out = ys[k]
                if OUT is not None:
                    out = OUT(out, _load(xs, row, here, ACC), w)
                tl.store(y + row, out.to(y.dtype.element_ty), mask=_inside(c, start + k, time, channels))
    for n in tl.static_range(STATES):
        tl.store(last + own + n, h[n], mask=here)


@triton.jit
def _tiles(pointer, COUNT: tl.constexpr, stride, mask):
    tiles = ()
    for i in tl.static_range(COUNT):
        tiles = tiles + (tl.load(pointer + i * stride, mask=mask, other=0.0),)
    return tiles


@triton.jit
def _rows(pointer, base, start, time, n, STATES: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr):
    """Keys or queries of a block, of one state."""
    values = ()
    for k in tl.static_range(BLOCK):
        values = values + (tl.load(pointer + _row(base, start + k, time) * STATES + n).to(ACC),)
    return values


@triton.jit
def _replay(
    xs, w, A, keys, queries, pos, notes, reads, base, first, time, channels, c, here,
    STATES: tl.constexpr, GROUP: tl.constexpr, GATES: tl.constexpr, READ: tl.constexpr, PACKED: tl.constexpr,
    SIZE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Write the state after every block of a chunk to notes [blocks + 1, N, SIZE], and y to reads [CHUNK, SIZE]."""
    for start in range(first, tl.minimum(first + CHUNK, time), BLOCK):
        dts, vs, resets = _gate(xs, w, pos, base, start, time, channels, c, here, GATES, PACKED, BLOCK, ACC)
        ys = _zeros(BLOCK, SIZE, ACC)
        tl.debug_barrier()
        for n in range(0, STATES, GROUP):
            note = notes + ((start - first) // BLOCK * STATES + n) * SIZE
            hs = _tiles(note, GROUP, SIZE, here)
            rates = _tiles(A + n * channels + c, GROUP, channels, here)
            for i in tl.static_range(GROUP):
                keys_n = _rows(keys, base, start, time, n + i, STATES, BLOCK, ACC)
                states, _ = _advance(hs[i], rates[i] * LOG2E, dts, vs, resets, keys_n, PACKED, BLOCK, FAST)
                tl.store(note + (STATES + i) * SIZE, states[BLOCK - 1])
                if READ:
                    ys = _read(ys, states, _rows(queries, base, start, time, n + i, STATES, BLOCK, ACC), BLOCK)
        if READ:
            for k in tl.static_range(BLOCK):
                tl.store(reads + (start - first + k) * SIZE, ys[k])
    tl.debug_barrier()


@triton.jit
def _incoming(
    xs, w, dy, reads, base, start, first, time, channels, c, here,
    OUT_GRAD: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The gradients of the y of a block."""
    out = ()
    for k in tl.static_range(BLOCK):
        inside = _inside(c, start + k, time, channels)
        row = _row(base, start + k, time) * channels + c
        d = tl.load(dy + row, mask=inside, other=0.0).to(ACC)
        if OUT_GRAD is not None:
            d, _, _ = OUT_GRAD(tl.load(reads + (start - first + k) * SIZE), _load(xs, row, here, ACC), w, d)
            d = tl.where(inside, d, 0.0)
        out = out + (d,)
    return out


@triton.jit
def _back(
    h, e, rate, dts, vs, resets, dys, d_dts, d_vs, keys, queries,
    PACKED: tl.constexpr, BLOCK: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """One state back through a block that begins from h, with the adjoint `e[t] = a[t] g[t]` that enters at its end.

    `g[t] = dy[t] C[t] + e[t+1]`, and `e[t] h[t-1]` is the gradient of the log decay. Returns the adjoint that leaves,
    the gradient of the rate, those of dt and v grown by this state's share, and those of its keys and queries.
    """
    states, decays = _advance(h, rate * LOG2E, dts, vs, resets, keys, PACKED, BLOCK, FAST)
    new_dts, new_vs, d_keys, d_queries, d_rate = (), (), (), (), 0.0 * h
    for k in tl.static_range(BLOCK - 1, -1, -1):
        g = e + dys[k] * queries[k]
        d_queries = (tl.sum(dys[k] * states[k], 0),) + d_queries
        d_keys = (tl.sum(vs[k] * g, 0),) + d_keys
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
def _store_rows(pointer, row, start, time, n, values, STATES: tl.constexpr, BLOCK: tl.constexpr):
    for k in tl.static_range(BLOCK):
        tl.store(pointer + (row + start + k) * STATES + n, values[k], mask=start + k < time)


@triton.jit
def _outgoing(
    xs, w, dxs, dws, pos, dy, reads, d_dts, d_vs, base, start, first, time, channels, c, here,
    GATES_GRAD: tl.constexpr, OUT_GRAD: tl.constexpr, PACKED: tl.constexpr, SIZE: tl.constexpr,
    BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Store the gradients of the tokens of a block; returns those of the weights, grown by its share."""
    for k in tl.static_range(BLOCK):
        inside = _inside(c, start + k, time, channels)
        row = _row(base, start + k, time) * channels + c
        x = _load(xs, row, here, ACC)
        dx, dw = GATES_GRAD(x, w, _place(pos, base, start + k, time, PACKED) + 0 * c == 0, d_dts[k], d_vs[k])
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
    STATES: tl.constexpr, GROUP: tl.constexpr, GATES: tl.constexpr, GATES_GRAD: tl.constexpr,
    OUT_GRAD: tl.constexpr, NUMBERS: tl.constexpr, PACKED: tl.constexpr, SIZE: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK: tl.constexpr, ACC: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """The grid and the shapes of `selective_forward`, but A: [N, C]. dws: [B, C]. dA, dstate: [B, N, C].

    dstate holds the gradient of the last state and in the end that of the first; dA begins at zero. dkeys, dqueries:
    [channels / SIZE, B, T, N]. Scratch: notes [programs, CHUNK / BLOCK + 1, N, SIZE], and reads [programs, CHUNK, SIZE]
    where there is a read-out. GROUP divides N: so many states at a time, what lasts of the others is in memory.
    """
    lane = tl.arange(0, SIZE)
    c = tl.program_id(0) * SIZE + lane
    here = c < channels
    batch = tl.program_id(1).to(tl.int64)
    base = batch * time
    own = batch * STATES * channels + c
    program = tl.program_id(0) * tl.num_programs(1).to(tl.int64) + batch
    notes += program * (CHUNK // BLOCK + 1) * STATES * SIZE + lane
    if OUT_GRAD is not None:
        reads += program * CHUNK * SIZE + lane
    w = _weights(ws, c, here, NUMBERS, ACC)
    d_w = _zeros(len(ws), SIZE, ACC)
    chunks = (time + CHUNK - 1) // CHUNK
    for passed in range(chunks):
        chunk = chunks - 1 - passed
        first = chunk * CHUNK
        for n in range(STATES):
            carry = carries + ((batch * chunks + chunk) * STATES + n) * channels + c
            tl.store(notes + n * SIZE, tl.load(carry, mask=here, other=0.0))
        _replay(
            xs, w, A, keys, queries, pos, notes, reads, base, first, time, channels, c, here,
            STATES, GROUP, GATES, OUT_GRAD is not None, PACKED, SIZE, CHUNK, BLOCK, ACC, FAST,
        )  # fmt: skip
        blocks = (tl.minimum(time - first, CHUNK) + BLOCK - 1) // BLOCK
        for gone in range(blocks):
            block = blocks - 1 - gone
            start = first + block * BLOCK
            dts, vs, resets = _gate(xs, w, pos, base, start, time, channels, c, here, GATES, PACKED, BLOCK, ACC)
            dys = _incoming(xs, w, dy, reads, base, start, first, time, channels, c, here, OUT_GRAD, SIZE, BLOCK, ACC)
            d_dts, d_vs = _zeros(BLOCK, SIZE, ACC), _zeros(BLOCK, SIZE, ACC)
            for n in range(0, STATES, GROUP):
                hs = _tiles(notes + (block * STATES + n) * SIZE, GROUP, SIZE, here)
                es = _tiles(dstate + own + n * channels, GROUP, channels, here)
                d_rates = _tiles(dA + own + n * channels, GROUP, channels, here)
                rates = _tiles(A + n * channels + c, GROUP, channels, here)
                for i in tl.static_range(GROUP):
                    keys_n = _rows(keys, base, start, time, n + i, STATES, BLOCK, ACC)
                    queries_n = _rows(queries, base, start, time, n + i, STATES, BLOCK, ACC)
                    e, d_rate, d_dts, d_vs, d_keys, d_queries = _back(
                        hs[i], es[i], rates[i], dts, vs, resets, dys, d_dts, d_vs, keys_n, queries_n,
                        PACKED, BLOCK, FAST,
                    )  # fmt: skip
                    tl.store(dstate + own + (n + i) * channels, e, mask=here)
                    tl.store(dA + own + (n + i) * channels, d_rates[i] + d_rate, mask=here)
                    _store_rows(dkeys, program * time, start, time, n + i, d_keys, STATES, BLOCK)
                    _store_rows(dqueries, program * time, start, time, n + i, d_queries, STATES, BLOCK)
            d_w = _outgoing(
                xs, w, dxs, d_w, pos, dy, reads, d_dts, d_vs, base, start, first, time, channels, c, here,
                GATES_GRAD, OUT_GRAD, PACKED, SIZE, BLOCK, ACC,
            )  # fmt: skip
            tl.debug_barrier()
    _store(dws, batch * channels + c, d_w, here)
