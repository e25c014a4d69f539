"""The causal depthwise convolution as Triton kernels: bias and what follows it inside, forward and backward.

A thread slides over K consecutive tokens of one or two channels: what the taps share is loaded once.
"""
# mypy: ignore-errors
# ruff: noqa: C901, RUF005  (Triton unrolls branches when it compiles, and knows no stars in tuples)

import triton
import triton.language as tl
from kernels.gated_tokens_triton import weights_at


@triton.jit
def _taps(w, c, C, some, TAPS: tl.constexpr, ACC: tl.constexpr):
    """The weights of the taps [TAPS, C] at the channels c, the one for the present first."""
    taps = ()
    for j in tl.static_range(TAPS):
        taps = taps + (tl.load(w + (TAPS - 1 - j) * C + c, mask=some, other=0.0).to(ACC),)
    return taps


@triton.jit
def _tokens(xs, at, offsets, known, ACC: tl.constexpr):
    """What is there of each of the tokens, from an address on."""
    x = ()
    for i in tl.static_range(len(xs)):
        x = x + (tl.load(xs[i] + at + offsets, mask=known, other=0.0).to(ACC),)
    return x


@triton.jit
def conv_forward(
    x, w, bias, xs, ws, pos, y, T, C, L,
    OUT: tl.constexpr, N: tl.constexpr, PAST: tl.constexpr, TAPS: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """y [B, T, C] of the last T tokens of x [B, PAST + T, C]; a program has a block of channels and L tokens.

    OUT makes it of the sum, of tokens xs [B, T, C] and of weights ws [C]; without it, it is the sum.
    """
    blocks = tl.cdiv(C, BC)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks) * BC + tl.arange(0, BC)[None, :]
    some = c < C
    lo = tl.program_id(1) * L
    left = tl.minimum(T - lo, L)
    x += (b * (PAST + T) + PAST + lo) * C
    at = (b * T + lo) * C
    y += at
    if pos is not None:
        pos += b * T + lo
    taps = _taps(w, c, C, some, TAPS, ACC)
    own = weights_at(ws, c, some, N, ACC)
    for tb in tl.range(0, left, S * K):
        t = tb + tl.arange(0, S)[:, None] * K
        offsets = t * C + c
        values = ()
        for i in tl.static_range(K + TAPS - 1):
            j = TAPS - 1 - i
            known = (t - j < left) & (t - j + lo >= -PAST)
            values = values + (tl.load(x + (offsets - j * C), mask=known & some, other=0.0).to(ACC),)
        for k in tl.static_range(K):
            inside = t + k < left
            if pos is not None:
                reach = tl.load(pos + t + k, mask=inside, other=0)
            z = taps[0] * values[TAPS - 1 + k]
            for j in tl.static_range(1, TAPS):
                if pos is not None:
                    z += tl.where(reach >= j, taps[j] * values[TAPS - 1 + k - j], 0.0)
                else:
                    z += taps[j] * values[TAPS - 1 + k - j]
            if bias is not None:
                z += tl.load(bias + c, mask=some, other=0.0).to(ACC)
            if OUT is not None:
                z = OUT(z, _tokens(xs, at, offsets + k * C, inside & some, ACC), own)
            tl.store(y + (offsets + k * C), z.to(y.dtype.element_ty), mask=inside & some)


@triton.jit
def conv_backward(
    x, w, bias, xs, ws, pos, dy, dx, dw, dbias, dxs, dws, T, C, L,
    OUT_GRAD: tl.constexpr, AGAIN: tl.constexpr, N: tl.constexpr, PAST: tl.constexpr, TAPS: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dx [B, PAST + T, C], dxs [B, T, C]; for each sequence and L places of the stream, dw [B, pieces, TAPS, C], dbias
    and dws [B, pieces, C].

    A thread has K places of the stream; the outputs that saw them reach TAPS - 1 further. AGAIN: the derivatives of
    what follows the sum need it, so it is computed again.
    """
    blocks = tl.cdiv(C, BC)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks) * BC + tl.arange(0, BC)[None, :]
    some = c < C
    lo = tl.program_id(1) * L - PAST
    left = tl.minimum(T - lo, L)
    x += (b * (PAST + T) + PAST + lo) * C
    dx += (b * (PAST + T) + PAST + lo) * C
    at = (b * T + lo) * C
    dy += at
    if pos is not None:
        pos += b * T + lo
    taps = _taps(w, c, C, some, TAPS, ACC)
    own = weights_at(ws, c, some, N, ACC)
    sums = ()
    for _ in tl.static_range(TAPS):
        sums = sums + (tl.zeros((S, BC), ACC),)
    bias_sum = tl.zeros((S, BC), ACC)
    own_sums = ()
    for _ in tl.static_range(len(ws)):
        own_sums = own_sums + (tl.zeros((S, BC), ACC),)
    for tb in tl.range(0, left, S * K):
        t = tb + tl.arange(0, S)[:, None] * K
        offsets = t * C + c
        values = ()
        for i in tl.static_range(K + (TAPS - 1) * (1 + AGAIN)):
            j = (TAPS - 1) * AGAIN - i
            known = (t - j + lo < T) & (t - j + lo >= -PAST)
            values = values + (tl.load(x + (offsets - j * C), mask=known & some, other=0.0).to(ACC),)
        grads = ()
        reaches = ()
        for k in tl.static_range(K + TAPS - 1):
            inside = (t + k + lo < T) & (t + k + lo >= 0)
            if pos is not None:
                reach = tl.load(pos + t + k, mask=inside, other=0)
                reaches = reaches + (reach,)
            g = tl.load(dy + (offsets + k * C), mask=inside & some, other=0.0).to(ACC)
            if OUT_GRAD is not None:
                z = g
                if AGAIN:
                    z = taps[0] * values[TAPS - 1 + k]
                    for j in tl.static_range(1, TAPS):
                        if pos is not None:
                            z += tl.where(reach >= j, taps[j] * values[TAPS - 1 + k - j], 0.0)
                        else:
                            z += taps[j] * values[TAPS - 1 + k - j]
                    if bias is not None:
                        z += tl.load(bias + c, mask=some, other=0.0).to(ACC)
                tokens = _tokens(xs, at, offsets + k * C, inside & some, ACC)
                g, of_tokens, of_weights = OUT_GRAD(z, tokens, own, g)
                g = tl.where(inside, g, 0.0)
                if k < K:
                    here = inside & (t + k < left)
                    more = ()
                    for i in tl.static_range(len(ws)):
                        more = more + (own_sums[i] + tl.where(here, of_weights[i], 0.0),)
                    own_sums = more
                    for i in tl.static_range(len(xs)):
                        place = dxs[i] + at + (offsets + k * C)
                        tl.store(place, of_tokens[i].to(dxs[i].dtype.element_ty), mask=here & some)
            grads = grads + (g,)
        for k in tl.static_range(K):
            inside = t + k < left
            value = values[(TAPS - 1) * AGAIN + k]
            total = tl.zeros((S, BC), ACC)
            more = ()
            for j in tl.static_range(TAPS):
                g = grads[k + j]
                if pos is not None:
                    g = tl.where((j == 0) | (reaches[k + j] >= j), g, 0.0)
                total += taps[j] * g
                more = more + (sums[j] + tl.where(inside, g * value, 0.0),)
            sums = more
            if bias is not None:
                bias_sum += tl.where(inside, grads[k], 0.0)
            tl.store(dx + (offsets + k * C), total.to(dx.dtype.element_ty), mask=inside & some)
    piece = b * tl.num_programs(1) + tl.program_id(1)
    for j in tl.static_range(TAPS):
        tl.store(dw + (piece * TAPS + TAPS - 1 - j) * C + c, tl.sum(sums[j], 0, keep_dims=True), mask=some)
    if bias is not None:
        tl.store(dbias + piece * C + c, tl.sum(bias_sum, 0, keep_dims=True), mask=some)
    for i in tl.static_range(len(ws)):
        tl.store(dws[i] + piece * C + c, tl.sum(own_sums[i], 0, keep_dims=True), mask=some)


@triton.jit
def conv_token(
    x, w, bias, xs, ws, pos, state, y, last, C,
    OUT: tl.constexpr, N: tl.constexpr, TAPS: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """y [B, C] of one token x [B, C] after the inputs state [B, TAPS - 1, C], and these inputs a token later, last."""
    b = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    some = c < C
    reach = tl.load(pos + b)
    state += b * (TAPS - 1) * C + c
    last += b * (TAPS - 1) * C + c
    value = tl.load(x + b * C + c, mask=some, other=0.0)
    z = tl.load(w + (TAPS - 1) * C + c, mask=some, other=0.0).to(ACC) * value.to(ACC)
    if TAPS > 1:
        tl.store(last + (TAPS - 2) * C, value.to(last.dtype.element_ty), mask=some)
    for j in tl.static_range(1, TAPS):
        value = tl.load(state + (TAPS - 1 - j) * C, mask=some, other=0.0)
        if j < TAPS - 1:
            tl.store(last + (TAPS - 2 - j) * C, value.to(last.dtype.element_ty), mask=some)
        tap = tl.load(w + (TAPS - 1 - j) * C + c, mask=some, other=0.0).to(ACC)
        z += tl.where(reach >= j, tap * value.to(ACC), 0.0)
    if bias is not None:
        z += tl.load(bias + c, mask=some, other=0.0).to(ACC)
    if OUT is not None:
        z = OUT(z, _tokens(xs, b * C, c, some, ACC), weights_at(ws, c, some, N, ACC))
    tl.store(y + b * C + c, z.to(y.dtype.element_ty), mask=some)
