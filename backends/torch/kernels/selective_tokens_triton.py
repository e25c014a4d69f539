"""What the kernels of selective scans share: the gates of a block of tokens, and a state on its way through it.

And the gates of scans that have none.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005 (Triton adds tuples, and unpacks none)

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def exp2(x, FAST: tl.constexpr):
    """FAST: one instruction, exact to two units in the last place, tiny results become zero."""
    if FAST:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.exp2(x)


@triton.jit
def tiles_at(pointers, offsets, mask, ACC: tl.constexpr):
    """A tile of each of the arrays, in the type of the sums."""
    tiles = ()
    for i in tl.static_range(len(pointers)):
        tiles = tiles + (tl.load(pointers[i] + offsets, mask=mask, other=0.0).to(ACC),)
    return tiles


@triton.jit
def weights_of(ws, c, here, NUMBERS: tl.constexpr, ACC: tl.constexpr):
    """The weights of the channels c, and behind them the numbers."""
    w = tiles_at(ws, c, here, ACC)
    for i in tl.static_range(len(NUMBERS)):
        w = w + (NUMBERS[i],)
    return w


@triton.jit
def zeros_of(COUNT: tl.constexpr, SIZE: tl.constexpr, ACC: tl.constexpr):
    """As many tiles of zeros."""
    tiles = ()
    for _ in tl.static_range(COUNT):
        tiles = tiles + (tl.full((SIZE,), 0.0, ACC),)
    return tiles


@triton.jit
def row_of(base, t, time):
    """The row of a token in [B T, ...]; past the end the last one, which is safe to read."""
    return base + tl.minimum(t, time - 1)


@triton.jit
def channels_of(program, channels, each, GROUPS: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr):
    """The channels of a program, where those of their groups end, and the groups: one if WIDTH is SIZE, otherwise
    SIZE / WIDTH, and for each channel its own. each: channels of a group.
    """
    lane = tl.arange(0, SIZE)
    if GROUPS == 1:
        return program * SIZE + lane, channels, 0
    elif WIDTH == SIZE:
        group = program // tl.cdiv(each, SIZE)
        return group * each + program % tl.cdiv(each, SIZE) * SIZE + lane, group * each + each, group
    else:
        group = program * (SIZE // WIDTH) + lane // WIDTH
        inner = lane % WIDTH
        return group * each + inner, tl.where((inner < each) & (group < GROUPS), channels, 0), group


@triton.jit
def shared_row(group, KEYS: tl.constexpr, GROUPS: tl.constexpr):
    """The place among KEYS = (count, shared, inner) rows: each is of `shared` groups that are `inner` apart."""
    group = tl.minimum(group, GROUPS - 1)
    return group // (KEYS[1] * KEYS[2]) * KEYS[2] + group % KEYS[2]


@triton.jit
def inside_of(c, t, time, end):
    """Which channels are there, and none of them past the end of time."""
    return c < tl.where(t < time, end, 0)


@triton.jit
def place_of(pos, base, t, time, PACKED: tl.constexpr):
    """The position of a token in its document."""
    if PACKED:
        return tl.load(pos + row_of(base, t, time)).to(tl.int32)
    else:
        return t


@triton.jit
def gates_of(
    xs, w, pos, base, start, time, channels, c, end, here,
    GATES: tl.constexpr, PACKED: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dt, v and what a start adds to the log decay, of the tokens of a block; past the end nothing moves."""
    dts, vs, resets = (), (), ()
    for k in tl.static_range(BLOCK):
        x = tiles_at(xs, row_of(base, start + k, time) * channels + c, here, ACC)
        place = place_of(pos, base, start + k, time, PACKED)
        dt, v = GATES(x, w, place + 0 * c == 0)
        inside = inside_of(c, start + k, time, end)
        dts = dts + (tl.where(inside, dt, 0.0),)
        vs = vs + (tl.where(inside, v, 0.0),)
        resets = resets + (tl.where((place == 0) & (start + k < time), float("-inf"), 0.0).to(ACC),)
    return dts, vs, resets


@triton.jit
def advance(h, rate, dts, vs, resets, keys, PACKED: tl.constexpr, BLOCK: tl.constexpr, FAST: tl.constexpr):
    """One state through a block from h: the states after each token, and the decays. rate: A log2(e)."""
    states, decays = (), ()
    for k in tl.static_range(BLOCK):
        power = dts[k] * rate
        if PACKED:
            power += resets[k]
        a = exp2(power, FAST)
        h = a * h + vs[k] * keys[k]
        states = states + (h,)
        decays = decays + (a,)
    return states, decays


@triton.jit
def read_states(ys, states, queries, BLOCK: tl.constexpr):
    """What is read out of a block, grown by the share of one state."""
    out = ()
    for k in tl.static_range(BLOCK):
        out = out + (ys[k] + queries[k] * states[k],)
    return out


@triton.jit
def rows_of(pointer, base, start, time, n, ROW: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr):
    """Keys or queries of a block, of one state; a token has ROW of them."""
    values = ()
    for k in tl.static_range(BLOCK):
        values = values + (tl.load(pointer + row_of(base, start + k, time) * ROW + n).to(ACC),)
    return values


@triton.jit
def identity_gates(x, w, first):
    """dt and v of tokens (v, dt)."""
    return x[1], x[0]


@triton.jit
def identity_gates_grad(x, w, first, d_dt, d_v):
    """The derivative of `identity_gates`."""
    return (d_v, d_dt), ()
