"""The causal convolution on a TPU: every array is read once, with the few tokens next to each block of time.

The bias lies behind the taps as one more row of their weights.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from kernels.blocks_tpu import LANES, ORDER, ROWS, Ref, column, group, inputs
from kernels.taps import before_gradient, slope, taps_cost, weighted, with_bias
from kernels.tiles import Arrays, array, flat, traffic, up

TIME = 512  # tokens of a block
CHANNELS = 512
MOST = ROWS + 1  # taps


def causal_conv_tpu(
    x: jax.Array,
    w: jax.Array,
    pos: jax.Array,
    before: jax.Array,
    bias: jax.Array | None,
    silu: bool,
    *,
    interpret: bool,
) -> jax.Array:
    """y [B, T, *axes] in the dtype of x; w [taps, *axes], pos [T] or [B, T], before [B, taps - 1, *axes], bias [*axes].

    There are at most MOST taps.
    """
    time, block = x.shape[1], min(TIME, up(x.shape[1], ROWS))
    lanes = up(time, block if time > block else LANES)
    places = pos.astype(jnp.int32).reshape(-1, 1, time)
    places = jnp.pad(places, ((0, 0), (0, 0), (0, lanes - time)))
    y = _run(interpret, silu, flat(x, 2), with_bias(x, w, bias), places, flat(before, 2))
    return y.reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(interpret: bool, silu: bool, x: jax.Array, w: jax.Array, pos: jax.Array, before: jax.Array) -> jax.Array:
    specs = _Specs(x, w, pos)
    y: jax.Array = pl.pallas_call(
        functools.partial(_forward_kernel, specs.time, silu),
        grid=specs.grid,
        in_specs=[specs.token, specs.earlier, specs.state, specs.weight, specs.pos],
        out_specs=specs.token,
        out_shape=array(x.shape, x.dtype),
        scratch_shapes=[pltpu.VMEM((specs.lanes, specs.width), jnp.int32)],
        compiler_params=ORDER,
        cost_estimate=taps_cost(2, silu, x, w, traffic(x, x, w, pos)),
        interpret=interpret,
        name="causal_conv",
    )(x, x, _last_rows(before), w, pos)
    return y


def _save(
    interpret: bool, silu: bool, x: jax.Array, w: jax.Array, pos: jax.Array, before: jax.Array
) -> tuple[jax.Array, Arrays]:
    return _run(interpret, silu, x, w, pos, before), (x, w, pos, before)


def _backward(
    interpret: bool, silu: bool, saved: Arrays, dy: jax.Array
) -> tuple[jax.Array, jax.Array, None, jax.Array]:
    x, w, pos, before = saved
    specs = _Specs(x, w, pos)
    dx, dw = pl.pallas_call(
        functools.partial(_backward_kernel, specs.time, silu),
        grid=specs.grid,
        in_specs=[
            *(specs.token, specs.earlier, specs.later, specs.state, specs.token, specs.later),
            *(specs.weight, specs.pos, specs.pos_later),
        ],
        out_specs=[specs.token, specs.sum],
        out_shape=[array(x.shape, x.dtype), array((x.shape[0], *w.shape), w.dtype)],
        scratch_shapes=[
            pltpu.VMEM((specs.lanes, specs.width), jnp.int32),
            pltpu.VMEM((specs.near, specs.width), jnp.int32),
        ],
        compiler_params=ORDER,
        cost_estimate=taps_cost(4 + 2 * silu, silu, x, w, traffic(x, x, dy, w, pos)),
        interpret=interpret,
        name="causal_conv_gradient",
    )(x, x, x, _last_rows(before), dy, dy, w, pos, pos)
    return dx, dw.sum(0), None, before_gradient(silu, x, w, pos[:, 0], before, dy)


_run.defvjp(_save, _backward)


def _last_rows(before: jax.Array) -> jax.Array:
    """The inputs before the first as ROWS rows."""
    return jnp.pad(before, ((0, 0), (ROWS - before.shape[1], 0), (0, 0)))


class _Specs:
    """Blocks of the arrays of a convolution, their neighbours, and the grid: batch, channels, time."""

    def __init__(self, x: jax.Array, w: jax.Array, pos: jax.Array) -> None:
        batch, self.time, channels = x.shape
        self.taps = w.shape[0] - 1
        block, width = min(TIME, up(self.time, ROWS)), min(CHANNELS, up(channels, LANES))
        blocks, groups = up(self.time, block) // block, up(self.time, ROWS) // ROWS
        self.grid, self.width = (batch, up(channels, width) // width, blocks), width
        self.lanes, shared = pos.shape[2] // blocks, pos.shape[0] == 1
        self.near = near = min(LANES, self.lanes)  # tokens after a block whose positions it sees
        per, parts = block // ROWS, self.lanes // near

        def row(b: jax.Array) -> jax.Array | int:
            return 0 if shared else b

        self.token = pl.BlockSpec((1, block, width), lambda b, c, t: (b, t, c))
        self.earlier = pl.BlockSpec((1, ROWS, width), lambda b, c, t: (b, jnp.maximum(t * per - 1, 0), c))
        self.later = pl.BlockSpec((1, ROWS, width), lambda b, c, t: (b, jnp.minimum((t + 1) * per, groups - 1), c))
        self.state = pl.BlockSpec((1, ROWS, width), lambda b, c, t: (b, 0, c))
        self.weight = pl.BlockSpec((self.taps + 1, width), lambda b, c, t: (0, c))
        self.sum = pl.BlockSpec((1, self.taps + 1, width), lambda b, c, t: (b, 0, c))
        self.pos = pl.BlockSpec((1, 1, self.lanes), lambda b, c, t: (row(b), 0, t))
        last = blocks * parts - 1
        self.pos_later = pl.BlockSpec((1, 1, near), lambda b, c, t: (row(b), 0, jnp.minimum((t + 1) * parts, last)))


def _forward_kernel(
    time: int, silu: bool, x: Ref, earlier: Ref, before: Ref, w: Ref, pos: Ref, y: Ref, place: Ref
) -> None:
    t, taps, acc = pl.program_id(2), w.shape[0] - 1, w.dtype
    left = time - t * x.shape[1]
    place[...] = column(pos[0], place.shape[1])

    def tokens(i: jax.Array, previous: jax.Array) -> jax.Array:
        at, _ = group(i, left, place.shape[1])
        now: jax.Array = x[0, at, :].astype(acc)
        total = weighted(w[...], place[at, :], now, _earlier(previous, now, taps))
        y[0, at, :] = (total * jax.nn.sigmoid(total) if silu else total).astype(y.dtype)
        return now

    start = jnp.where(t == 0, before[0].astype(acc), earlier[0].astype(acc))
    jax.lax.fori_loop(0, x.shape[1] // ROWS, tokens, start)


def _backward_kernel(
    time: int,
    silu: bool,
    x: Ref,
    earlier: Ref,
    x_later: Ref,
    before: Ref,
    dy: Ref,
    later: Ref,
    w: Ref,
    pos: Ref,
    pos_later: Ref,
    dx: Ref,
    dw: Ref,
    place: Ref,
    place_later: Ref,
) -> None:
    t, taps, acc, groups = pl.program_id(2), w.shape[0] - 1, w.dtype, x.shape[1] // ROWS
    left = time - t * x.shape[1]
    place[...] = column(pos[0], place.shape[1])
    place_later[...] = column(pos_later[0], place.shape[1])

    @pl.when(t == 0)
    def _() -> None:
        dw[...] = jnp.zeros_like(dw)

    start = jnp.where(t == 0, before[0].astype(acc), earlier[0].astype(acc))

    def entering(d: jax.Array, where: jax.Array, previous: jax.Array, now: jax.Array, live: jax.Array) -> jax.Array:
        """The derivative by the sum of taps and bias."""
        if not silu:
            return d
        return jnp.where(live, d * slope(weighted(w[...], where, now, _earlier(previous, now, taps))), 0)

    def tokens(i: jax.Array, carried: Arrays) -> Arrays:
        d_next, place_next, *sums = carried
        i = groups - 1 - i
        at, live = group(i, left, place.shape[1])
        now, d = inputs((x, dy), at, live, acc)
        where = place[at, :]
        above = x[0, pl.ds(pl.multiple_of(jnp.maximum(i - 1, 0) * ROWS, ROWS), ROWS), :].astype(acc)
        previous = jnp.where(i == 0, start, above)
        d = entering(d, where, previous, now, live)
        total = d * w[taps - 1 : taps, :]
        sums[0] = sums[0] + (d * now).sum(0, keepdims=True)
        sums[taps] = sums[taps] + d.sum(0, keepdims=True)
        for j in range(1, taps):
            seen = jnp.where(where >= j, d, 0)
            following = jnp.where(place_next >= j, d_next, 0)
            total = total + _ahead(seen, following, j) * w[taps - 1 - j : taps - j, :]
            sums[j] = sums[j] + (seen * jnp.where(live, _back(previous, now, j), 0)).sum(0, keepdims=True)
        dx[0, at, :] = total.astype(dx.dtype)
        return d, where, *sums

    _, live = group(groups, left, place.shape[1])  # of the tokens after this block
    d_later = jnp.where(live, later[0].astype(acc), 0)
    near = place_later[:ROWS, :]
    final = x[0, (groups - 1) * ROWS :, :].astype(acc)
    d_later = entering(d_later, near, final, x_later[0].astype(acc), live)
    empty = jnp.zeros((1, place.shape[1]), acc)
    _, _, *sums = jax.lax.fori_loop(0, groups, tokens, (d_later, near, *(empty for _ in range(taps + 1))))
    for j, value in enumerate(sums[:taps]):
        dw[0, taps - 1 - j : taps - j, :] += value
    dw[0, taps:, :] += sums[taps]


def _earlier(previous: jax.Array, now: jax.Array, taps: int) -> Iterator[tuple[int, jax.Array]]:
    """What stands before each row of `now`, by distance."""
    return ((j, _back(previous, now, j)) for j in range(1, taps))


def _back(previous: jax.Array, now: jax.Array, j: int) -> jax.Array:
    """What stands j rows before each row of `now`."""
    rows: jax.Array = pltpu.roll(jnp.concatenate([previous, now]), j, 0)[ROWS:]
    return rows


def _ahead(now: jax.Array, following: jax.Array, j: int) -> jax.Array:
    """What stands j rows after each row of `now`."""
    rows: jax.Array = pltpu.roll(jnp.concatenate([now, following]), 2 * ROWS - j, 0)[:ROWS]
    return rows
