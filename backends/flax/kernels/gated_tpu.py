"""The gated scan on a TPU: gates, recurrence and their derivatives over a block of time that lies in vector memory.

Time blocks of a sequence run in order and hand the state on; the backward pass runs them in reverse and computes gates
and states again from the state at the start of each block.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from kernels.blocks_tpu import LANES, ORDER, ROWS, Ref, Refs, column, group, inputs, time_block, weights
from kernels.tiles import (
    Arrays,
    Gates,
    accumulator,
    added,
    again_and_back,
    array,
    first_tokens,
    flat,
    gates_cost,
    once,
    read,
    read_grad,
    traffic,
    up,
)

CHANNELS = 512  # of a block


def gated_scan_tpu(
    gates: Gates, x: Arrays, w: Arrays, pos: jax.Array, state: jax.Array | None, *, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """h, or what is made of it, in the dtype of x[0], and the last h.

    x [B, T, *axes], w [*axes], pos [T] or [B, T], state [B, *axes].
    """
    shape, acc = x[0].shape, accumulator(*x, *w)
    x, w = tuple(flat(z, 2) for z in x), tuple(z.reshape(1, -1).astype(acc) for z in w)
    h0 = jnp.zeros((shape[0], 1, x[0].shape[2]), acc) if state is None else flat(state, 1)[:, None].astype(acc)
    y, last = _run(gates, interpret, x, w, first_tokens(pos, _block(x, acc)), h0)
    return y.reshape(shape), last.reshape(shape[:1] + shape[2:])


def _block(x: Arrays, acc: jnp.dtype) -> int:
    """The backward pass holds inputs, their gradients and that of h twice, and decays, states and starts once."""
    size = acc.itemsize
    held = 2 * (2 * sum(z.dtype.itemsize for z in x) + x[0].dtype.itemsize) + 2 * size + 4
    block: int = time_block(x[0].shape[1], held * CHANNELS)
    return block


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(gates: Gates, interpret: bool, x: Arrays, w: Arrays, first: jax.Array, h0: jax.Array) -> Arrays:
    y, last, _ = _forward(gates, interpret, x, w, first, h0)
    return y, last


def _save(
    gates: Gates, interpret: bool, x: Arrays, w: Arrays, first: jax.Array, h0: jax.Array
) -> tuple[Arrays, tuple[Arrays, Arrays, jax.Array, jax.Array]]:
    y, last, starts = _forward(gates, interpret, x, w, first, h0)
    return (y, last), (x, w, first, starts)


class TokenSpecs:
    """Blocks of the arrays of a scan, of `block` tokens, and its grid: batch, channels, time."""

    def __init__(self, x: Arrays, first: jax.Array, block: int, reverse: bool = False) -> None:
        batch, self.time, channels = x[0].shape
        self.block, width = block, min(CHANNELS, up(channels, LANES))
        self.blocks, self.width = -(-self.time // self.block), width
        self.grid = (batch, -(-channels // width), self.blocks)
        last, shared = self.blocks - 1, first.shape[0] == 1

        def at(t: jax.Array) -> jax.Array:
            return last - t if reverse else t

        self.token = pl.BlockSpec((1, self.block, width), lambda b, c, t: (b, at(t), c))
        self.weight = pl.BlockSpec((1, width), lambda b, c, t: (0, c))
        self.state = pl.BlockSpec((1, 1, width), lambda b, c, t: (b, 0, c))
        self.start = pl.BlockSpec((1, 1, 1, width), lambda b, c, t: (b, at(t), 0, c))
        self.first = pl.BlockSpec((1, 1, self.block), lambda b, c, t: (0 if shared else b, 0, at(t)))


def _forward(gates: Gates, interpret: bool, x: Arrays, w: Arrays, first: jax.Array, h0: jax.Array) -> Arrays:
    """y, the last h [B, 1, C], h before every block [B, blocks, 1, C]."""
    acc = h0.dtype
    specs = TokenSpecs(x, first, _block(x, acc))
    starts = array((x[0].shape[0], specs.blocks, 1, x[0].shape[2]), acc)
    out: Arrays = pl.pallas_call(
        functools.partial(_forward_kernel, gates, specs.time),
        grid=specs.grid,
        in_specs=[tuple(specs.token for _ in x), tuple(specs.weight for _ in w), specs.first, specs.state],
        out_specs=[specs.token, specs.state, specs.start],
        out_shape=[array(x[0].shape, x[0].dtype), array(h0.shape, acc), starts],
        scratch_shapes=[
            pltpu.VMEM((specs.block, specs.width), jnp.int32),
            *[pltpu.VMEM((ROWS, specs.width), acc)] * 2,
            pltpu.VMEM((1, specs.width), acc),
        ],
        compiler_params=ORDER,
        cost_estimate=gates_cost(once(gates), x, w, traffic(*x, *w, first, h0, h0, starts, x[0])),
        interpret=interpret,
        name="gated_scan",
    )(x, w, first, h0)
    return out


def _backward(
    gates: Gates, interpret: bool, saved: tuple[Arrays, Arrays, jax.Array, jax.Array], gradients: Arrays
) -> tuple[Arrays, Arrays, None, jax.Array]:
    x, w, first, starts = saved
    dy, dlast = gradients
    acc = starts.dtype
    specs = TokenSpecs(x, first, _block(x, acc), reverse=True)
    tokens, weights = tuple(specs.token for _ in x), tuple(specs.weight for _ in w)
    sums = array(dlast.shape, acc)
    moved = traffic(*x, *x, *w, first, starts, dy, dlast, *(sums for _ in w))
    dx, dw, dh0 = pl.pallas_call(
        functools.partial(_backward_kernel, gates, specs.time),
        grid=specs.grid,
        in_specs=[tokens, weights, specs.first, specs.start, specs.token, specs.state],
        out_specs=[tokens, tuple(specs.state for _ in w), specs.state],
        out_shape=[tuple(array(z.shape, z.dtype) for z in x), tuple(sums for _ in w), sums],
        scratch_shapes=[
            pltpu.VMEM((specs.block, specs.width), jnp.int32),
            *[pltpu.VMEM((specs.block, specs.width), acc)] * 2,
            pltpu.VMEM((ROWS, specs.width), acc),
            pltpu.VMEM((1, specs.width), acc),
        ],
        compiler_params=ORDER,
        cost_estimate=gates_cost(again_and_back(gates), x, w, moved),
        interpret=interpret,
        name="gated_scan_gradient",
    )(x, w, first, starts, dy, dlast)
    return dx, tuple(z.sum(0) for z in dw), None, dh0


_run.defvjp(_save, _backward)


def _forward_kernel(
    gates: Gates,
    time: int,
    x: Refs,
    w: Refs,
    first: Ref,
    h0: Ref,
    y: Ref,
    last: Ref,
    start: Ref,
    fresh: Ref,
    a: Ref,
    u: Ref,
    carry: Ref,
) -> None:
    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        carry[...] = h0[0]

    start[0, 0] = carry[...]
    left = time - pl.program_id(2) * fresh.shape[0]
    fresh[...] = column(first[0], fresh.shape[1])

    def of_group(i: jax.Array, h: jax.Array) -> jax.Array:
        at, live = group(i, left, fresh.shape[1])
        tokens = inputs(x, at, live, u.dtype), weights(w)
        starts = fresh[at, :] != 0
        a[...], u[...] = _gates(gates, *tokens, starts, live)
        before, h = h, _walk(a, u, h, 0)
        states = jnp.where(starts, 0, _previous(u[...], before)) if gates.before else u[...]
        y[0, at, :] = read(gates, states, *tokens).astype(y.dtype)
        return h

    carry[...] = jax.lax.fori_loop(0, fresh.shape[0] // ROWS, of_group, carry[...])
    last[0] = carry[...]


def _backward_kernel(
    gates: Gates,
    time: int,
    x: Refs,
    w: Refs,
    first: Ref,
    start: Ref,
    dy: Ref,
    dlast: Ref,
    dx: Refs,
    dw: Refs,
    dh0: Ref,
    fresh: Ref,
    a: Ref,
    h: Ref,
    e: Ref,
    carry: Ref,
) -> None:
    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        carry[...] = dlast[0]
        for z in dw:
            z[...] = jnp.zeros_like(z)

    groups = fresh.shape[0] // ROWS
    left = time - (pl.num_programs(2) - 1 - pl.program_id(2)) * fresh.shape[0]
    fresh[...] = column(first[0], fresh.shape[1])

    def again(i: jax.Array, before: jax.Array) -> jax.Array:
        at, live = group(i, left, fresh.shape[1])
        a[at, :], h[at, :] = _gates(gates, inputs(x, at, live, h.dtype), weights(w), fresh[at, :] != 0, live)
        return _walk(a, h, before, i * ROWS)

    def back(i: jax.Array, carried: Arrays) -> Arrays:
        after, *sums = carried
        i = groups - 1 - i
        at, live = group(i, left, fresh.shape[1])
        place = jax.lax.broadcasted_iota(jnp.int32, e.shape, 0)
        tokens = inputs(x, at, live, e.dtype), weights(w)
        starts = fresh[at, :] != 0
        h_before = h[pl.ds(jnp.maximum(i * ROWS - 1, 0), 1), :]
        previous = jnp.where(starts, 0, _previous(h[at, :], jnp.where(i == 0, start[0, 0], h_before)))
        states = previous if gates.before else h[at, :]
        d, dxs_read, dws_read = read_grad(gates, states, *tokens, dy[0, at, :].astype(e.dtype))
        d = jnp.where(live & ~starts if gates.before else live, d, 0)
        e[...] = d if gates.before else a[at, :] * d
        earliest = _walk_back(a, e, after, i * ROWS)
        g = jnp.where(place == ROWS - 1, after, pltpu.roll(e[...], ROWS - 1, 0))  # e[t] = a[t] g[t], or that and d
        g = g if gates.before else d + g
        da, du = jnp.where(live, g * previous, 0), jnp.where(live, g, 0)
        dxs, dws = gates.gates_grad(*tokens, starts, da, du)
        for z, value in zip(dx, added(dxs, dxs_read), strict=True):
            z[0, at, :] = jnp.broadcast_to(value, e.shape).astype(z.dtype)
        more = (jnp.where(live, value, 0).sum(0, keepdims=True) for value in added(dws, dws_read))
        return earliest, *(z + value for z, value in zip(sums, more, strict=True))

    jax.lax.fori_loop(0, groups, again, start[0, 0])
    carry[...], *sums = jax.lax.fori_loop(0, groups, back, (carry[...], *(z[0] for z in dw)))
    for z, value in zip(dw, sums, strict=True):
        z[0] = value
    dh0[0] = carry[...]


def _gates(gates: Gates, x: Arrays, w: Arrays, first: jax.Array, live: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Decay and input; what is no token decays by nothing and adds nothing, so that the state survives."""
    a, u = gates.gates(x, w, first)
    return jnp.where(live, jnp.where(first, 0, a), 1), jnp.where(live, u, 0)


def _previous(h: jax.Array, before: jax.Array) -> jax.Array:
    """The state before each of ROWS tokens, from those after each and that before the first."""
    return jnp.where(jax.lax.broadcasted_iota(jnp.int32, h.shape, 0) == 0, before, pltpu.roll(h, 1, 0))


def _walk(a: Ref, u: Ref, h: jax.Array, base: jax.Array | int) -> jax.Array:
    """h = a h + u over ROWS rows, in place of u."""
    for k in range(ROWS):
        row = pl.ds(base + k, 1)
        h = a[row, :] * h + u[row, :]
        u[row, :] = h
    return h


def _walk_back(a: Ref, e: Ref, after: jax.Array, base: jax.Array | int) -> jax.Array:
    """e[t] = a[t] e[t+1] + d[t] over ROWS rows in reverse, in place of d."""
    for k in reversed(range(ROWS)):
        after = a[pl.ds(base + k, 1), :] * after + e[pl.ds(k, 1), :]
        e[pl.ds(k, 1), :] = after
    return after
