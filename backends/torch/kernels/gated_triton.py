"""Diagonal scans with their gates as Triton kernels, forward and backward.

A tile is S segments of K consecutive tokens by BC channels. A thread holds the K tokens of its segment in registers,
by name; only what a segment does to a state, the pair (decay, end), goes across threads. Gates come in as two device
functions, `G(x, w, first) -> (a, u)` and `D(x, w, first, da, du) -> (dx, dw)`, on tuples of tiles.
"""
# mypy: ignore-errors
# ruff: noqa: C901, RUF005  (Triton unrolls branches when it compiles, and knows no stars in tuples)

import triton
import triton.language as tl


@triton.jit
def _join(decay, end, next_decay, next_end):
    """What two successive pieces of time do to a state: `h -> decay h + end`."""
    return decay * next_decay, next_decay * end + next_end


@triton.jit
def _join_behind(decay, end, before_decay, before_end, next_decay, next_end, next_before_decay, next_before_end):
    """`_join`, which carries along what happens before the last element of each piece: the exclusive prefix."""
    return (
        decay * next_decay,
        next_decay * end + next_end,
        decay * next_before_decay,
        next_before_decay * end + next_before_end,
    )


@triton.jit
def _last(x, S: tl.constexpr):
    """The last row of a tile [S, BC], as [1, BC]."""
    return tl.sum(tl.where(tl.arange(0, S)[:, None] == S - 1, x, 0.0), 0, keep_dims=True)


@triton.jit
def _across(decay, end, state, S: tl.constexpr):
    """The states before each of S segments [S, BC] and after the last [1, BC], given that before the first [1, BC]."""
    one = tl.full(decay.shape, 1.0, decay.dtype)
    decays, ends, before_decay, before_end = tl.associative_scan((decay, end, one, one * 0.0), 0, _join_behind)
    return before_end + before_decay * state, _last(ends + decays * state, S)


@triton.jit
def _weights(ws, c, some, ACC: tl.constexpr):
    """Each of the weights [C] at the channels c, in the type of the sums."""
    w = ()
    for i in tl.static_range(len(ws)):
        w = w + (tl.load(ws[i] + c, mask=some, other=0.0).to(ACC),)
    return w


@triton.jit
def _token(
    xs, at, w, pos, row, offsets, t, inside, some, G: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """Inputs, decay and input of the recurrence at the tokens t [S, 1], and whether a document starts there.

    Nothing comes over the start of a document, and what is no token (not `inside`) does nothing to a state.
    """
    x = ()
    for i in tl.static_range(len(xs)):
        x = x + (tl.load(xs[i] + at + offsets, mask=inside & some).to(ACC),)
    if pos is not None:
        first = tl.load(pos + row, mask=inside, other=1) == 0
    else:
        first = t == 0
    a, u = G(x, w, first)
    if pos is not None:
        a = tl.where(first, 0.0, a)
    return x, tl.where(inside, a, 1.0), tl.where(inside, u, 0.0), first


@triton.jit
def scan_forward(
    xs, ws, pos, starts, y, carries, last, T, C, L,
    G: tl.constexpr, SPAN: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """States y [B, T, C] of a chunk of L tokens, the state before every SPAN of them, and the last one [B, C].

    Program (block of channels and sequence, chunk). xs: [B, T, C] each; ws: [C] each; pos: [B, T] or None; starts:
    [B, chunks, C] or None; carries: [B, ceil(T / SPAN), C], SPAN a multiple of K.
    """
    blocks = tl.cdiv(C, BC)
    b = tl.program_id(0) // blocks
    chunk = tl.program_id(1)
    c = (tl.program_id(0) % blocks) * BC + tl.arange(0, BC)[None, :]
    some = c < C
    lo = chunk * L
    hi = tl.minimum(lo + L, T)
    rows = tl.arange(0, S)[:, None] * K
    offsets = rows * C + c
    row = b.to(tl.int64) * T + lo
    at = row * C
    if pos is not None:
        pos += row
    y += at
    carries += b.to(tl.int64) * tl.cdiv(T, SPAN) * C
    w = _weights(ws, c, some, ACC)
    if starts is not None:
        state = tl.load(starts + (b.to(tl.int64) * tl.num_programs(1) + chunk) * C + c, mask=some, other=0.0).to(ACC)
    else:
        state = tl.zeros((1, BC), ACC)
    for tb in tl.range(lo, hi, S * K):
        decays = ()
        inputs = ()
        for k in tl.static_range(K):
            t = tb + rows + k
            _x, a, u, _first = _token(xs, at, w, pos, t - lo, offsets + k * C, t, t < hi, some, G, ACC)
            decays = decays + (a,)
            inputs = inputs + (u,)
        if S == 1:
            h = state
        else:
            decay = decays[0]
            end = inputs[0]
            for k in tl.static_range(1, K):
                decay = decay * decays[k]
                end = decays[k] * end + inputs[k]
            h, state = _across(decay, end, state, S)
        spans = (tb + rows) // SPAN
        tl.store(carries + spans * C + c, h, mask=((tb + rows) % SPAN == 0) & (tb + rows < hi) & some)
        for k in tl.static_range(K):
            h = decays[k] * h + inputs[k]
            tl.store(y + (offsets + k * C), h.to(y.dtype.element_ty), mask=(tb + rows + k < hi) & some)
        if S == 1:
            state = h
        offsets += S * K * C
    if chunk == tl.num_programs(1) - 1:
        tl.store(last + b.to(tl.int64) * C + c, state, mask=some)


@triton.jit
def scan_backward(
    xs, ws, pos, carries, dy, ends, dxs, dws, leaving, T, C, L,
    G: tl.constexpr, D: tl.constexpr, SPAN: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients of the inputs [B, T, C] and, for each sequence and chunk, of the weights [B, chunks, C].

    Tile by tile from the last: the states again from the carry before it, then the adjoint that leaves a token for the
    one before, `e[t] = a[t] (dy[t] + e[t+1])`. ends: e behind each chunk [B, chunks, C] or None; leaving: e of
    the first token of each chunk, likewise. S * K is a multiple of SPAN.
    """
    blocks = tl.cdiv(C, BC)
    b = tl.program_id(0) // blocks
    chunk = tl.program_id(1)
    c = (tl.program_id(0) % blocks) * BC + tl.arange(0, BC)[None, :]
    some = c < C
    lo = chunk * L
    hi = tl.minimum(lo + L, T)
    tiles = tl.cdiv(hi - lo, S * K)
    tb = lo + (tiles - 1) * (S * K)
    rows = tl.arange(0, S)[:, None] * K
    offsets = (rows + (tb - lo)) * C + c
    row = b.to(tl.int64) * T + lo
    at = row * C
    if pos is not None:
        pos += row
    dy += at
    carries += b.to(tl.int64) * tl.cdiv(T, SPAN) * C
    piece = (b.to(tl.int64) * tl.num_programs(1) + chunk) * C
    w = _weights(ws, c, some, ACC)
    dw = ()
    for _ in tl.static_range(len(ws)):
        dw = dw + (tl.zeros((S, BC), ACC),)
    if ends is not None:
        adjoint = tl.load(ends + piece + c, mask=some, other=0.0).to(ACC)
    else:
        adjoint = tl.zeros((1, BC), ACC)
    for _ in tl.range(tiles):
        x = ()
        decays = ()
        inputs = ()
        firsts = ()
        dys = ()
        for k in tl.static_range(K):
            t = tb + rows + k
            x_k, a, u, first = _token(xs, at, w, pos, t - lo, offsets + k * C, t, t < hi, some, G, ACC)
            x = x + (x_k,)
            decays = decays + (a,)
            inputs = inputs + (u,)
            firsts = firsts + (first,)
            dys = dys + (tl.load(dy + (offsets + k * C), mask=(t < hi) & some, other=0.0).to(ACC),)
        h = tl.load(carries + (tb // SPAN) * C + c, mask=some, other=0.0)
        e = adjoint
        if S > 1:
            decay = decays[0]
            end = inputs[0]
            back = decays[K - 1] * dys[K - 1]
            for k in tl.static_range(1, K):
                decay = decay * decays[k]
                end = decays[k] * end + inputs[k]
                back = decays[K - 1 - k] * (dys[K - 1 - k] + back)
            h, _after = _across(decay, end, h, S)
            e, adjoint = _across(tl.flip(decay, 0), tl.flip(back, 0), e, S)
            e = tl.flip(e, 0)
        befores = ()
        for k in tl.static_range(K):
            befores = befores + (h,)
            h = decays[k] * h + inputs[k]
        for k in tl.static_range(K - 1, -1, -1):
            inside = tb + rows + k < hi
            g = dys[k] + e
            e = decays[k] * g
            da = g * befores[k]
            if pos is not None:
                da = tl.where(firsts[k], 0.0, da)
            dx_k, dw_k = D(x[k], w, firsts[k], da, g)
            for i in tl.static_range(len(dxs)):
                value = dx_k[i].to(dxs[i].dtype.element_ty)
                tl.store(dxs[i] + at + (offsets + k * C), value, mask=inside & some)
            total = ()
            for i in tl.static_range(len(ws)):
                total = total + (dw[i] + tl.where(inside, dw_k[i], 0.0),)
            dw = total
        if S == 1:
            adjoint = e
        tb -= S * K
        offsets -= S * K * C
    for i in tl.static_range(len(ws)):
        tl.store(dws[i] + piece + c, tl.sum(dw[i], 0, keep_dims=True), mask=some)
    tl.store(leaving + piece + c, adjoint, mask=some)


@triton.jit
def scan_pieces(
    xs, ws, pos, dy, decays, ends, T, C, L,
    G: tl.constexpr, K: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """What each chunk does to the state (with dy, to the adjoint) that enters it: decay and end [B, chunks, C].

    A row of the tile has L / S tokens to itself, so that nothing goes across threads before the last one. L is a
    multiple of S * K.
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
    w = _weights(ws, c, some, ACC)
    decay = tl.full((S, BC), 1.0, ACC)
    end = tl.zeros((S, BC), ACC)
    for tile in tl.range(0, part, K):
        for step in tl.static_range(K):
            if dy is not None:
                t = segment * part + (part - 1 - tile - step)
            else:
                t = segment * part + (tile + step)
            inside = lo + t < hi
            _x, a, u, _first = _token(xs, row * C, w, pos, t, t * C + c, lo + t, inside, some, G, ACC)
            if dy is not None:
                end = a * (end + tl.load(dy + (t * C + c), mask=inside & some, other=0.0).to(ACC))
            else:
                end = a * end + u
            decay = decay * a
    if S > 1:
        decay, end = tl.associative_scan((decay, end), 0, _join)
    piece = (b.to(tl.int64) * tl.num_programs(1) + chunk) * C
    tl.store(decays + piece + c, _last(decay, S), mask=some)
    tl.store(ends + piece + c, _last(end, S), mask=some)


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


@triton.jit
def given(x, w, first):
    """Gates of a scan whose inputs (u, a) are there already."""
    return x[1], x[0]


@triton.jit
def given_grad(x, w, first, da, du):
    """The gradient of `given`."""
    return (du, da), ()


@triton.jit
def constant(x, w, first):
    """Gates of a scan of u with one decay a channel."""
    return w[0], x[0]


@triton.jit
def constant_grad(x, w, first, da, du):
    """The gradient of `constant`."""
    return (du,), (da,)
