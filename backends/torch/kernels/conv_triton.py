"""The causal depthwise convolution as Triton kernels: bias and activation inside, forward and backward.

A thread slides over K consecutive tokens of one or two channels: what the taps share is loaded once.
"""
# mypy: ignore-errors
# ruff: noqa: C901, RUF005  (Triton unrolls branches when it compiles, and knows no stars in tuples)

import triton
import triton.language as tl


@triton.jit
def _taps(w, c, C, some, TAPS: tl.constexpr, ACC: tl.constexpr):
    """The weights of the taps [TAPS, C] at the channels c, the one for the present first."""
    taps = ()
    for j in tl.static_range(TAPS):
        taps = taps + (tl.load(w + (TAPS - 1 - j) * C + c, mask=some, other=0.0).to(ACC),)
    return taps


@triton.jit
def conv_forward(
    x, w, bias, pos, y, T, C, L,
    PAST: tl.constexpr, TAPS: tl.constexpr, SILU: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """y [B, T, C] of the last T tokens of x [B, PAST + T, C]; a program has a block of channels and L tokens."""
    blocks = tl.cdiv(C, BC)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks) * BC + tl.arange(0, BC)[None, :]
    some = c < C
    lo = tl.program_id(1) * L
    left = tl.minimum(T - lo, L)
    x += (b * (PAST + T) + PAST + lo) * C
    y += (b * T + lo) * C
    if pos is not None:
        pos += b * T + lo
    taps = _taps(w, c, C, some, TAPS, ACC)
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
            if SILU:
                z = z * tl.sigmoid(z)
            tl.store(y + (offsets + k * C), z.to(y.dtype.element_ty), mask=inside & some)


@triton.jit
def conv_backward(
    x, w, bias, pos, dy, dx, dw, dbias, T, C, L,
    PAST: tl.constexpr, TAPS: tl.constexpr, SILU: tl.constexpr,
    K: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dx [B, PAST + T, C]; for each sequence and L places of the stream, dw [B, pieces, TAPS, C], dbias [B, pieces, C].

    A thread has K places of the stream; the outputs that saw them reach TAPS - 1 further. Before an activation what
    entered it is computed again.
    """
    blocks = tl.cdiv(C, BC)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks) * BC + tl.arange(0, BC)[None, :]
    some = c < C
    lo = tl.program_id(1) * L - PAST
    left = tl.minimum(T - lo, L)
    x += (b * (PAST + T) + PAST + lo) * C
    dx += (b * (PAST + T) + PAST + lo) * C
    dy += (b * T + lo) * C
    if pos is not None:
        pos += b * T + lo
    taps = _taps(w, c, C, some, TAPS, ACC)
    sums = ()
    for _ in tl.static_range(TAPS):
        sums = sums + (tl.zeros((S, BC), ACC),)
    bias_sum = tl.zeros((S, BC), ACC)
    for tb in tl.range(0, left, S * K):
        t = tb + tl.arange(0, S)[:, None] * K
        offsets = t * C + c
        values = ()
        for i in tl.static_range(K + (TAPS - 1) * (1 + SILU)):
            j = (TAPS - 1) * SILU - i
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
            if SILU:
                z = taps[0] * values[TAPS - 1 + k]
                for j in tl.static_range(1, TAPS):
                    if pos is not None:
                        z += tl.where(reach >= j, taps[j] * values[TAPS - 1 + k - j], 0.0)
                    else:
                        z += taps[j] * values[TAPS - 1 + k - j]
                if bias is not None:
                    z += tl.load(bias + c, mask=some, other=0.0).to(ACC)
                open = tl.sigmoid(z)
                g = g * open * (1.0 + z * (1.0 - open))
            grads = grads + (g,)
        for k in tl.static_range(K):
            inside = t + k < left
            value = values[(TAPS - 1) * SILU + k]
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


@triton.jit
def conv_token(
    x, w, bias, pos, state, y, last, C,
    TAPS: tl.constexpr, SILU: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
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
    if SILU:
        z = z * tl.sigmoid(z)
    tl.store(y + b * C + c, z.to(y.dtype.element_ty), mask=some)
