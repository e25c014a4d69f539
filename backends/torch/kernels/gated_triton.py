"""Diagonal scans with their gates as Triton kernels, forward and backward.

A tile is S segments of K consecutive tokens by BC channels. A thread holds the K tokens of its segment in registers,
by name; only what a segment does to a state, the pair (decay, end), goes across threads. Gates come in as two device
functions, `G(x, w, first) -> (a, u)` and `D(x, w, first, da, du) -> (dx, dw)`, on tuples of tiles; what follows the
state as two more or None, `OUT(h, x, w) -> o` and `OUT_GRAD(h, x, w, do) -> (dh, dx, dw)`. Behind the weights w has
the numbers N, which dw has not. BEFORE: what is read is the state before each token.
"""
# mypy: ignore-errors
# ruff: noqa: C901, RUF005  (Triton unrolls branches when it compiles, and knows no stars in tuples)

import triton
import triton.language as tl
from kernels.gated_tokens_triton import across, token_at, weights_at


@triton.jit
def scan_forward(
    xs, ws, pos, starts, y, carries, last, T, C, L,
    G: tl.constexpr, OUT: tl.constexpr, N: tl.constexpr, BEFORE: tl.constexpr, SPAN: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """States (with OUT, o) y [B, T, C] of a chunk of L tokens, the state before every SPAN, and the last one [B, C].

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
    w = weights_at(ws, c, some, N, ACC)
    if starts is not None:
        state = tl.load(starts + (b.to(tl.int64) * tl.num_programs(1) + chunk) * C + c, mask=some, other=0.0).to(ACC)
    else:
        state = tl.zeros((1, BC), ACC)
    for tb in tl.range(lo, hi, S * K):
        x = ()
        decays = ()
        inputs = ()
        firsts = ()
        for k in tl.static_range(K):
            t = tb + rows + k
            x_k, a, u, first = token_at(xs, at, w, pos, t - lo, offsets + k * C, t, t < hi, some, G, ACC)
            x = x + (x_k,)
            decays = decays + (a,)
            inputs = inputs + (u,)
            firsts = firsts + (first,)
        if S == 1:
            h = state
        else:
            decay = decays[0]
            end = inputs[0]
            for k in tl.static_range(1, K):
                decay = decay * decays[k]
                end = decays[k] * end + inputs[k]
            h, state = across(decay, end, state, S)
        spans = b.to(tl.int64) * tl.cdiv(T, SPAN) + (tb + rows) // SPAN
        tl.store(carries + spans * C + c, h, mask=((tb + rows) % SPAN == 0) & (tb + rows < hi) & some)
        for k in tl.static_range(K):
            before = h
            h = decays[k] * h + inputs[k]
            out = h
            if BEFORE:
                out = tl.where(firsts[k], 0.0, before)
            if OUT is not None:
                out = OUT(out, x[k], w)
            tl.store(y + (offsets + k * C), out.to(y.dtype.element_ty), mask=(tb + rows + k < hi) & some)
        if S == 1:
            state = h
        offsets += S * K * C
    if chunk == tl.num_programs(1) - 1:
        tl.store(last + b.to(tl.int64) * C + c, state, mask=some)


@triton.jit
def scan_backward(
    xs, ws, pos, carries, dy, ends, dxs, dws, leaving, T, C, L,
    G: tl.constexpr, D: tl.constexpr, OUT_GRAD: tl.constexpr, N: tl.constexpr, BEFORE: tl.constexpr,
    SPAN: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients of the inputs [B, T, C] and, for each sequence and chunk, of the weights [B, chunks, C].

    Tile by tile from the last: the states again from the carry before it, then the adjoint that leaves a token for the
    one before, `e[t] = a[t] (dy[t] + e[t+1])`, with BEFORE `a[t] e[t+1] + dy[t]`. ends: e behind each chunk
    [B, chunks, C] or None; leaving: e of the first token of each chunk, likewise. S * K is a multiple of SPAN.
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
    w = weights_at(ws, c, some, N, ACC)
    dw = ()
    for _ in tl.static_range(len(ws)):
        dw = dw + (tl.zeros((S, BC), ACC),)
    if ends is not None:
        adjoint = tl.load(ends + piece + c, mask=some, other=0.0).to(ACC)
    else:
        adjoint = tl.zeros((1, BC), ACC)
    for _ in tl.range(tiles, disable_licm=True):
        x = ()
        decays = ()
        inputs = ()
        firsts = ()
        dys = ()
        for k in tl.static_range(K):
            t = tb + rows + k
            x_k, a, u, first = token_at(xs, at, w, pos, t - lo, offsets + k * C, t, t < hi, some, G, ACC)
            x = x + (x_k,)
            decays = decays + (a,)
            inputs = inputs + (u,)
            firsts = firsts + (first,)
            dys = dys + (tl.load(dy + (offsets + k * C), mask=(t < hi) & some, other=0.0).to(ACC),)
        h = tl.load(carries + (tb // SPAN) * C + c, mask=some, other=0.0)
        if S > 1:
            decay = decays[0]
            end = inputs[0]
            for k in tl.static_range(1, K):
                decay = decay * decays[k]
                end = decays[k] * end + inputs[k]
            h, _after = across(decay, end, h, S)
        befores = ()
        coming = ()
        more = ()
        for k in tl.static_range(K):
            befores = befores + (h,)
            h = decays[k] * h + inputs[k]
            read = h
            if BEFORE:
                read = tl.where(firsts[k], 0.0, befores[k])
            d = dys[k]
            if OUT_GRAD is not None:
                inside = tb + rows + k < hi
                d, dx_k, dw_k = OUT_GRAD(read, x[k], w, d)
                d = tl.where(inside, d, 0.0)
                more = more + (dx_k,)
                total = ()
                for i in tl.static_range(len(ws)):
                    total = total + (dw[i] + tl.where(inside, dw_k[i], 0.0),)
                dw = total
            if BEFORE:
                d = tl.where(firsts[k], 0.0, d)
            coming = coming + (d,)
        e = adjoint
        if S > 1:
            back = coming[K - 1]
            if not BEFORE:
                back = decays[K - 1] * back
            for k in tl.static_range(1, K):
                if BEFORE:
                    back = decays[K - 1 - k] * back + coming[K - 1 - k]
                else:
                    back = decays[K - 1 - k] * (coming[K - 1 - k] + back)
            e, adjoint = across(tl.flip(decay, 0), tl.flip(back, 0), e, S)
            e = tl.flip(e, 0)
        for k in tl.static_range(K - 1, -1, -1):
            inside = tb + rows + k < hi
            if BEFORE:
                g = e
                e = decays[k] * g + coming[k]
            else:
                g = coming[k] + e
                e = decays[k] * g
            da = g * befores[k]
            if pos is not None:
                da = tl.where(firsts[k], 0.0, da)
            dx_k, dw_k = D(x[k], w, firsts[k], da, g)
            for i in tl.static_range(len(dxs)):
                value = dx_k[i]
                if OUT_GRAD is not None:
                    value += more[k][i]
                tl.store(dxs[i] + at + (offsets + k * C), value.to(dxs[i].dtype.element_ty), mask=inside & some)
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
