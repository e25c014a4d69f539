"""The causal convolution on a TPU: every array is read once, with the few tokens next to each block of time.

What follows the sum runs on the tokens of a register, and in the backward pass again.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from kernels.blocks_tpu import LANES, ORDER, ROWS, Ref, Refs, column, group, inputs, time_block
from kernels.taps import Work, before_gradient, rows, weighted
from kernels.tiles import Arrays, array, flat, traffic, up

CHANNELS = 512
MOST = ROWS + 1  # taps


def causal_conv_tpu(
    work: Work,
    x: jax.Array,
    w: jax.Array,
    pos: jax.Array,
    before: jax.Array,
    bias: jax.Array | None,
    tokens: Arrays,
    weights: Arrays,
) -> jax.Array:
    """y [B, T, *axes] in the dtype of x; w [taps, *axes], pos [T] or [B, T], before [B, taps - 1, *axes], bias [*axes].

    tokens: [B, T, *axes], weights: what broadcasts to [*axes]. There are at most MOST taps.
    """
    time, block = x.shape[1], _block(x, tokens)
    lanes = up(time, block if time > block else LANES)
    places = pos.astype(jnp.int32).reshape(-1, 1, time)
    places = jnp.pad(places, ((0, 0), (0, 0), (0, lanes - time)))
    more = tuple(flat(z, 2) for z in tokens)
    return _run(work, flat(x, 2), more, rows(x, w, bias, weights), places, flat(before, 2)).reshape(x.shape)


def _block(x: jax.Array, tokens: Arrays) -> int:
    """The backward pass holds its inputs and their gradients twice, and positions once."""
    held = 2 * (3 * x.dtype.itemsize + 2 * sum(z.dtype.itemsize for z in tokens)) + 4
    block: int = time_block(x.shape[1], held * CHANNELS)
    return block


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(work: Work, x: jax.Array, tokens: Arrays, w: jax.Array, pos: jax.Array, before: jax.Array) -> jax.Array:
    specs = _Specs(x, tokens, w, pos)
    y: jax.Array = pl.pallas_call(
        functools.partial(_forward_kernel, specs.time, work),
        grid=specs.grid,
        in_specs=[specs.token, specs.earlier, specs.state, specs.tokens, specs.weight, specs.pos],
        out_specs=specs.token,
        out_shape=array(x.shape, x.dtype),
        scratch_shapes=[pltpu.VMEM((specs.lanes, specs.width), jnp.int32)],
        compiler_params=ORDER,
        cost_estimate=work.cost(x, w, len(tokens), traffic(x, x, *tokens, w, pos)),
        interpret=work.interpret,
        name="causal_conv",
    )(x, x, _last_rows(before), tokens, w, pos)
    return y


Saved = tuple[jax.Array, Arrays, jax.Array, jax.Array, jax.Array]


def _save(
    work: Work, x: jax.Array, tokens: Arrays, w: jax.Array, pos: jax.Array, before: jax.Array
) -> tuple[jax.Array, Saved]:
    return _run(work, x, tokens, w, pos, before), (x, tokens, w, pos, before)


def _backward(work: Work, saved: Saved, dy: jax.Array) -> tuple[jax.Array, Arrays, jax.Array, None, jax.Array]:
    x, tokens, w, pos, before = saved
    specs = _Specs(x, tokens, w, pos)
    dx, dtokens, dw = pl.pallas_call(
        functools.partial(_backward_kernel, specs.time, work),
        grid=specs.grid,
        in_specs=[
            *(specs.token, specs.earlier, specs.later, specs.state, specs.token, specs.later),
            *(specs.tokens, tuple(specs.later for _ in tokens), specs.weight, specs.pos, specs.pos_later),
        ],
        out_specs=[specs.token, specs.tokens, specs.sum],
        out_shape=[
            array(x.shape, x.dtype),
            tuple(array(z.shape, z.dtype) for z in tokens),
            array((x.shape[0], *w.shape), w.dtype),
        ],
        scratch_shapes=[
            pltpu.VMEM((specs.lanes, specs.width), jnp.int32),
            pltpu.VMEM((specs.near, specs.width), jnp.int32),
        ],
        compiler_params=ORDER,
        cost_estimate=work.cost(x, w, len(tokens), traffic(x, x, dy, *tokens, *tokens, w, pos), back=1),
        interpret=work.interpret,
        name="causal_conv_gradient",
    )(x, x, x, _last_rows(before), dy, dy, tokens, tokens, w, pos, pos)
    return dx, dtokens, dw.sum(0), None, before_gradient(work, x, tokens, w, pos[:, 0], before, dy)


_run.defvjp(_save, _backward)


def _last_rows(before: jax.Array) -> jax.Array:
    """The inputs before the first as ROWS rows."""
    return jnp.pad(before, ((0, 0), (ROWS - before.shape[1], 0), (0, 0)))


class _Specs:
    """Blocks of the arrays of a convolution, their neighbours, and the grid: batch, channels, time."""

    def __init__(self, x: jax.Array, tokens: Arrays, w: jax.Array, pos: jax.Array) -> None:
        batch, self.time, channels = x.shape
        block, width = _block(x, tokens), min(CHANNELS, up(channels, LANES))
        blocks, groups = up(self.time, block) // block, up(self.time, ROWS) // ROWS
        self.grid, self.width = (batch, up(channels, width) // width, blocks), width
        self.lanes, shared = pos.shape[2] // blocks, pos.shape[0] == 1
        self.near = near = min(LANES, self.lanes)  # tokens after a block whose positions it sees
        per, parts = block // ROWS, self.lanes // near

        def row(b: jax.Array) -> jax.Array | int:
            return 0 if shared else b

        self.token = pl.BlockSpec((1, block, width), lambda b, c, t: (b, t, c))
        self.tokens = tuple(self.token for _ in tokens)
        self.earlier = pl.BlockSpec((1, ROWS, width), lambda b, c, t: (b, jnp.maximum(t * per - 1, 0), c))
        self.later = pl.BlockSpec((1, ROWS, width), lambda b, c, t: (b, jnp.minimum((t + 1) * per, groups - 1), c))
        self.state = pl.BlockSpec((1, ROWS, width), lambda b, c, t: (b, 0, c))
        self.weight = pl.BlockSpec((w.shape[0], width), lambda b, c, t: (0, c))
        self.sum = pl.BlockSpec((1, w.shape[0], width), lambda b, c, t: (b, 0, c))
        self.pos = pl.BlockSpec((1, 1, self.lanes), lambda b, c, t: (row(b), 0, t))
        last = blocks * parts - 1
        self.pos_later = pl.BlockSpec((1, 1, near), lambda b, c, t: (row(b), 0, jnp.minimum((t + 1) * parts, last)))


def _forward_kernel(
    time: int, work: Work, x: Ref, earlier: Ref, before: Ref, more: Refs, w: Ref, pos: Ref, y: Ref, place: Ref
) -> None:
    t, taps, acc = pl.program_id(2), work.taps(w), w.dtype
    left = time - t * x.shape[1]
    place[...] = column(pos[0], place.shape[1])

    def tokens(i: jax.Array, previous: jax.Array) -> jax.Array:
        at, live = group(i, left, place.shape[1])
        now: jax.Array = x[0, at, :].astype(acc)
        total = weighted(taps, w[...], place[at, :], now, _earlier(previous, now, taps))
        y[0, at, :] = work.result(total, inputs(more, at, live, acc), work.behind(w[...])).astype(y.dtype)
        return now

    start = jnp.where(t == 0, before[0].astype(acc), earlier[0].astype(acc))
    jax.lax.fori_loop(0, x.shape[1] // ROWS, tokens, start)


def _backward_kernel(
    time: int,
    work: Work,
    x: Ref,
    earlier: Ref,
    x_later: Ref,
    before: Ref,
    dy: Ref,
    later: Ref,
    more: Refs,
    more_later: Refs,
    w: Ref,
    pos: Ref,
    pos_later: Ref,
    dx: Ref,
    dmore: Refs,
    dw: Ref,
    place: Ref,
    place_later: Ref,
) -> None:
    t, taps, acc, groups = pl.program_id(2), work.taps(w), w.dtype, x.shape[1] // ROWS
    left = time - t * x.shape[1]
    place[...] = column(pos[0], place.shape[1])
    place_later[...] = column(pos_later[0], place.shape[1])

    @pl.when(t == 0)
    def _() -> None:
        dw[...] = jnp.zeros_like(dw)

    start = jnp.where(t == 0, before[0].astype(acc), earlier[0].astype(acc))

    def entering(
        d: jax.Array, where: jax.Array, previous: jax.Array, now: jax.Array, read: Arrays, live: jax.Array
    ) -> tuple[jax.Array, Arrays, Arrays]:
        """The derivatives by the sum of taps and bias, by what is read behind it of tokens, and of channels."""
        if work.activation is None:
            return d, (), ()
        total = weighted(taps, w[...], where, now, _earlier(previous, now, taps))
        found, of_tokens, of_weights = work.activation.grad(total, read, work.behind(w[...]), d)
        return jnp.where(live, found, 0), of_tokens, tuple(jnp.where(live, z, 0) for z in of_weights)

    def tokens(i: jax.Array, carried: Arrays) -> Arrays:
        d_next, place_next, *sums = carried
        i = groups - 1 - i
        at, live = group(i, left, place.shape[1])
        now, d, *read = inputs((x, dy, *more), at, live, acc)
        where = place[at, :]
        above = x[0, pl.ds(pl.multiple_of(jnp.maximum(i - 1, 0) * ROWS, ROWS), ROWS), :].astype(acc)
        previous = jnp.where(i == 0, start, above)
        d, of_tokens, of_weights = entering(d, where, previous, now, tuple(read), live)
        for z, value in zip(dmore, of_tokens, strict=True):
            z[0, at, :] = jnp.broadcast_to(value, d.shape).astype(z.dtype)
        total = d * w[taps - 1 : taps, :]
        sums[0] = sums[0] + (d * now).sum(0, keepdims=True)
        for row, value in enumerate((d, *of_weights), taps):
            sums[row] = sums[row] + value.sum(0, keepdims=True)
        for j in range(1, taps):
            seen = jnp.where(where >= j, d, 0)
            following = jnp.where(place_next >= j, d_next, 0)
            total = total + _ahead(seen, following, j) * w[taps - 1 - j : taps - j, :]
            sums[j] = sums[j] + (seen * jnp.where(live, _back(previous, now, j), 0)).sum(0, keepdims=True)
        dx[0, at, :] = total.astype(dx.dtype)
        return d, where, *sums

    _, live = group(groups, left, place.shape[1])  # of the tokens after this block
    d_later, x_after, *read = (jnp.where(live, z[0].astype(acc), 0) for z in (later, x_later, *more_later))
    near = place_later[:ROWS, :]
    final = x[0, (groups - 1) * ROWS :, :].astype(acc)
    d_later, _, _ = entering(d_later, near, final, x_after, tuple(read), live)
    empty = jnp.zeros((1, place.shape[1]), acc)
    _, _, *sums = jax.lax.fori_loop(0, groups, tokens, (d_later, near, *(empty for _ in range(w.shape[0]))))
    for j, value in enumerate(sums[:taps]):
        dw[0, taps - 1 - j : taps - j, :] += value
    for row, value in enumerate(sums[taps:], taps):
        dw[0, row : row + 1, :] += value


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
