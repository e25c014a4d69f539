"""Diagonal scans of complex states with their gates as Triton kernels, forward and backward.

Complex numbers are pairs of real tiles. The order of the work is that of `gated_triton.py`: a thread holds the K tokens
of its segment in registers, and only what a segment does to a state goes across threads. Gates are device functions
`G(x, w, first) -> (a_re, a_im, u_re, u_im)` and `D(x, w, first, da_re, da_im, du_re, du_im) -> (dx, dw)`; what follows
the state two more or None, `OUT(h_re, h_im, x, w) -> o` and `OUT_GRAD(h_re, h_im, x, w, do) -> (dh_re, dh_im, dx, dw)`,
where a complex o is `o_re, o_im`. Behind the weights w has the numbers N, which dw has not. BEFORE: what is read is the
state before each token. States in memory, [B, pieces, 2, C], have their imaginary parts behind the real ones.
"""
# mypy: ignore-errors
# ruff: noqa: C901, RUF005  (Triton unrolls branches when it compiles, and knows no stars in tuples)

import triton
import triton.language as tl
from kernels.gated_complex_tokens_triton import (
    across_pairs,
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
from kernels.gated_tokens_triton import weights_at


@triton.jit
def complex_forward(
    xs, ws, pos, starts, ys, carries, last, T, C, L,
    G: tl.constexpr, OUT: tl.constexpr, N: tl.constexpr, BEFORE: tl.constexpr, SPAN: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Parts of the states (with OUT, of o) ys [B, T, C] each of a chunk of L tokens, the state before every SPAN, and
    the last one [B, 2, C].

    Program (block of channels and sequence, chunk). xs: [B, T, C] each; ws: [C] each; pos: [B, T] or None; starts:
    [B, chunks, 2, C] or None; carries: [B, ceil(T / SPAN), 2, C], SPAN a multiple of K.
    """
    blocks = tl.cdiv(C, BC)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    chunk = tl.program_id(1)
    c = (tl.program_id(0) % blocks) * BC + tl.arange(0, BC)[None, :]
    some = c < C
    lo = chunk * L
    hi = tl.minimum(lo + L, T)
    rows = tl.arange(0, S)[:, None] * K
    offsets = rows * C + c
    row = b * T + lo
    at = row * C
    if pos is not None:
        pos += row
    carries += b * tl.cdiv(T, SPAN) * 2 * C
    w = weights_at(ws, c, some, N, ACC)
    state = pair_at(starts, (b * tl.num_programs(1) + chunk) * 2 * C + c, C, some, ACC)
    for tb in tl.range(lo, hi, S * K):
        x = ()
        decays = ()
        inputs = ()
        firsts = ()
        for k in tl.static_range(K):
            t = tb + rows + k
            x_k, a, u, first = complex_token_at(xs, at, w, pos, t - lo, offsets + k * C, t, t < hi, some, G, ACC)
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
                decay = times(decay, decays[k])
                end = plus(times(decays[k], end), inputs[k])
            h, state = across_pairs(decay, end, state, S)
        spans = (tb + rows) // SPAN
        store_pair(carries, spans * 2 * C + c, C, h, ((tb + rows) % SPAN == 0) & (tb + rows < hi) & some)
        for k in tl.static_range(K):
            before = h
            h = plus(times(decays[k], h), inputs[k])
            read = h
            if BEFORE:
                read = pick(firsts[k] == 0, before, 0.0)
            out = read
            if OUT is not None:
                if len(ys) == 1:
                    out = (OUT(read[0], read[1], x[k], w),)
                else:
                    out = OUT(read[0], read[1], x[k], w)
            for i in tl.static_range(len(ys)):
                where = ys[i] + at + (offsets + k * C)
                tl.store(where, out[i].to(ys[i].dtype.element_ty), mask=(tb + rows + k < hi) & some)
        if S == 1:
            state = h
        offsets += S * K * C
    if chunk == tl.num_programs(1) - 1:
        store_pair(last, b * 2 * C + c, C, state, some)


@triton.jit
def complex_backward(
    xs, ws, pos, carries, dys, ends, dxs, dws, leaving, T, C, L,
    G: tl.constexpr, D: tl.constexpr, OUT_GRAD: tl.constexpr, N: tl.constexpr, BEFORE: tl.constexpr,
    SPAN: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients of the inputs [B, T, C] and, for each sequence and chunk, of the weights [B, chunks, C].

    Tile by tile from the last: the states again from the carry before it, then the adjoint that leaves a token for the
    one before, `e[t] = conj(a[t]) (dy[t] + e[t+1])`, with BEFORE `conj(a[t]) e[t+1] + dy[t]`. dys: of each part [B, T,
    C]. ends: e behind each chunk [B, chunks, 2, C] or None; leaving: e of the first token of each chunk, likewise.
    S * K is a multiple of SPAN.
    """
    blocks = tl.cdiv(C, BC)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    chunk = tl.program_id(1)
    c = (tl.program_id(0) % blocks) * BC + tl.arange(0, BC)[None, :]
    some = c < C
    lo = chunk * L
    hi = tl.minimum(lo + L, T)
    tiles = tl.cdiv(hi - lo, S * K)
    tb = lo + (tiles - 1) * (S * K)
    rows = tl.arange(0, S)[:, None] * K
    offsets = (rows + (tb - lo)) * C + c
    row = b * T + lo
    at = row * C
    if pos is not None:
        pos += row
    carries += b * tl.cdiv(T, SPAN) * 2 * C
    piece = b * tl.num_programs(1) + chunk
    w = weights_at(ws, c, some, N, ACC)
    dw = ()
    for _ in tl.static_range(len(ws)):
        dw = dw + (tl.zeros((S, BC), ACC),)
    adjoint = pair_at(ends, piece * 2 * C + c, C, some, ACC)
    for _ in tl.range(tiles):
        x = ()
        decays = ()
        inputs = ()
        firsts = ()
        dy = ()
        for k in tl.static_range(K):
            t = tb + rows + k
            x_k, a, u, first = complex_token_at(xs, at, w, pos, t - lo, offsets + k * C, t, t < hi, some, G, ACC)
            x = x + (x_k,)
            decays = decays + (a,)
            inputs = inputs + (u,)
            firsts = firsts + (first,)
            dy = dy + (loaded(dys, at, offsets + k * C, (t < hi) & some, ACC),)
        h = pair_at(carries, (tb // SPAN) * 2 * C + c, C, some, ACC)
        if S > 1:
            decay = decays[0]
            end = inputs[0]
            for k in tl.static_range(1, K):
                decay = times(decay, decays[k])
                end = plus(times(decays[k], end), inputs[k])
            h, _after = across_pairs(decay, end, h, S)
        befores = ()
        coming = ()
        more = ()
        for k in tl.static_range(K):
            befores = befores + (h,)
            h = plus(times(decays[k], h), inputs[k])
            read = h
            if BEFORE:
                read = pick(firsts[k] == 0, befores[k], 0.0)
            d = dy[k]
            if OUT_GRAD is not None:
                inside = tb + rows + k < hi
                d, dx_k, dw_k = read_grad(OUT_GRAD, read, x[k], w, d)
                d = pick(inside, d, 0.0)
                more = more + (dx_k,)
                total = ()
                for i in tl.static_range(len(ws)):
                    total = total + (dw[i] + tl.where(inside, dw_k[i], 0.0),)
                dw = total
            if BEFORE:
                d = pick(firsts[k] == 0, d, 0.0)
            coming = coming + (d,)
        e = adjoint
        if S > 1:
            back = coming[K - 1]
            if not BEFORE:
                back = times(turned(decays[K - 1]), back)
            for k in tl.static_range(1, K):
                if BEFORE:
                    back = plus(times(turned(decays[K - 1 - k]), back), coming[K - 1 - k])
                else:
                    back = times(turned(decays[K - 1 - k]), plus(coming[K - 1 - k], back))
            turn = tl.flip(decay[0], 0), -tl.flip(decay[1], 0)
            e, adjoint = across_pairs(turn, (tl.flip(back[0], 0), tl.flip(back[1], 0)), e, S)
            e = tl.flip(e[0], 0), tl.flip(e[1], 0)
        for k in tl.static_range(K - 1, -1, -1):
            inside = tb + rows + k < hi
            if BEFORE:
                g = e
                e = plus(times(turned(decays[k]), g), coming[k])
            else:
                g = plus(coming[k], e)
                e = times(turned(decays[k]), g)
            da = times(g, turned(befores[k]))
            if pos is not None:
                da = pick(firsts[k] == 0, da, 0.0)
            dx_k, dw_k = D(x[k], w, firsts[k], da[0], da[1], g[0], g[1])
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
        tl.store(dws[i] + piece * C + c, tl.sum(dw[i], 0, keep_dims=True), mask=some)
    store_pair(leaving, piece * 2 * C + c, C, adjoint, some)
