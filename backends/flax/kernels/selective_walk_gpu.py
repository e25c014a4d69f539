"""The kernels of the selective scan on a GPU: the tokens of a few channels, forward and backward, a block at a time."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from kernels.blocks_gpu import Ref, Refs, Token, load, power, store, tokens_of
from kernels.selective import entering
from kernels.tiles import Arrays, Gates, added

BLOCK = 32  # tokens from one state in memory to the next
STEPS = 2  # tokens whose states are in registers at once
CHANNELS = 32  # of a program, at most


class Sizes(NamedTuple):
    """Of a sequence, of a group of channels, of the part of one that a program has, and of the state of a channel."""

    time: int
    channels: int
    width: int
    states: int

    @property
    def parts(self) -> int:
        """Programs of a group."""
        return -(-self.channels // self.width)


class _Here(NamedTuple):
    """Which channels, which states and which of both a program has."""

    lanes: jax.Array
    rows: jax.Array
    both: jax.Array


def _here(sizes: Sizes) -> _Here:
    program = pl.program_id(1)
    part = jax.lax.rem(program, program * 0 + sizes.parts)
    lanes = part * sizes.width + jnp.arange(sizes.width, dtype=jnp.int32) < sizes.channels
    rows = jnp.arange(power(sizes.states), dtype=jnp.int32) < sizes.states
    return _Here(lanes, rows, rows[:, None] & lanes[None, :])


def _columns(BC: Refs, token: Token, here: _Here, time: int, acc: jnp.dtype) -> Arrays:
    """B and C of a token [N, 1]."""
    return tuple(load(z.at[token.t], here.rows & (token.t < time)).astype(acc)[:, None] for z in BC)


def forward(
    gates: Gates,
    sizes: Sizes,
    x: Refs,
    w: Refs,
    A: Ref,
    BC: Refs,
    first: Ref,
    h0: Ref,
    o: Ref,
    last: Ref,
    start: Ref,
) -> None:
    """What is read out of all tokens, h before every BLOCK of them and the last; A times log2(e)."""
    here, acc = _here(sizes), last.dtype
    weights, decay = tuple(load(z, here.lanes) for z in w), load(A, here.both)

    def steps(n: jax.Array, h: jax.Array) -> jax.Array:
        block, place = jax.lax.div(n, n * 0 + BLOCK // STEPS), jax.lax.rem(n, n * 0 + BLOCK // STEPS)
        store(start.at[block], h, here.both & (place == 0))
        for token in tokens_of(n, STEPS, sizes.time, here.lanes, x, first, acc):
            dt, v = entering(gates, token.x, weights, token.first, here.lanes & token.live)
            B, C = _columns(BC, token, here, sizes.time, acc)
            h = _decayed(dt, decay, token, h) + B * v[None, :]
            y = jnp.sum(C * h, 0)
            value = y if gates.out is None else gates.out(y, token.x, weights)
            store(o.at[token.t], value, here.lanes & token.live)
        return h

    h = jax.lax.fori_loop(0, start.shape[0] * (BLOCK // STEPS), steps, load(h0, here.both))
    store(last, h, here.both)


def backward(
    gates: Gates,
    sizes: Sizes,
    wait: Callable[[], None],
    x: Refs,
    w: Refs,
    A: Ref,
    BC: Refs,
    first: Ref,
    start: Ref,
    do: Ref,
    dlast: Ref,
    dx: Refs,
    dw: Refs,
    dA: Ref,
    dBC: Refs,
    dh0: Ref,
    between: Ref,
) -> None:
    """The gradients of all tokens, in blocks in reverse; `between` has h before every STEPS tokens of a block.

    wait: until all threads are there.
    """
    here, acc, blocks = _here(sizes), dh0.dtype, start.shape[0]
    weights, decay = tuple(load(z, here.lanes) for z in w), load(A, here.both)

    def walk(n: jax.Array, h: jax.Array) -> tuple[list[tuple[Token, Arrays]], jax.Array]:
        """STEPS tokens with their step and input, B and C, and what is left of the state before; and h behind them."""
        found = []
        for token in tokens_of(n, STEPS, sizes.time, here.lanes, x, first, acc):
            dt, v = entering(gates, token.x, weights, token.first, here.lanes & token.live)
            B, C = _columns(BC, token, here, sizes.time, acc)
            decayed = _decayed(dt, decay, token, h)
            h = decayed + B * v[None, :]
            found.append((token, (dt, v, B, C, decayed)))
        return found, h

    def steps_back(n: jax.Array, place: jax.Array, carried: Arrays) -> Arrays:
        e, sum_A, *sums = carried
        for token, (dt, v, B, C, decayed) in reversed(walk(n, load(between.at[place], here.both))[0]):
            live = here.lanes & token.live
            h, d = decayed + B * v[None, :], load(do.at[token.t], live).astype(acc)
            more: tuple[Arrays, Arrays] = ((), ())
            if gates.out_grad is not None:
                d, *more = gates.out_grad(jnp.sum(C * h, 0), token.x, weights, d)
                d = jnp.where(live, d, 0)
            g = e + C * d[None, :]
            turned = g * decayed  # the gradient of dt A, A itself without its factor of log2(e)
            rows = here.rows & (token.t < sizes.time)
            store(dBC[0].at[token.t], jnp.sum(g * v[None, :], 1), rows)
            store(dBC[1].at[token.t], jnp.sum(h * d[None, :], 1), rows)
            ddt, dv = jnp.sum(turned * decay, 0) * math.log(2), jnp.sum(g * B, 0)
            through = jnp.where(live, ddt, 0), jnp.where(live, dv, 0)
            dxs, dws = gates.gates_grad(token.x, weights, token.first, *through)
            dxs, dws = added(dxs, more[0]), added(dws, more[1])
            for z, value in zip(dx, dxs, strict=True):
                store(z.at[token.t], jnp.broadcast_to(value, live.shape), live)
            sums = [z + jnp.where(live, value, 0) for z, value in zip(sums, dws, strict=True)]
            sum_A = sum_A + turned * (dt * math.log(2))[None, :]
            e = _decayed(dt, decay, token, g)
        return e, sum_A, *sums

    def block(i: jax.Array, carried: Arrays) -> Arrays:
        n, count = blocks - 1 - i, BLOCK // STEPS

        def again(place: jax.Array, h: jax.Array) -> jax.Array:
            store(between.at[place], h, here.both)
            return walk(n * count + place, h)[1]

        def back(passed: jax.Array, carried: Arrays) -> Arrays:
            place = count - 1 - passed
            return steps_back(n * count + place, place, carried)

        jax.lax.fori_loop(0, count, again, load(start.at[n], here.both))
        wait()  # another thread may read what this one wrote
        found: Arrays = jax.lax.fori_loop(0, count, back, carried)
        wait()
        return found

    zero = jnp.zeros(here.lanes.shape, acc)
    begin = (load(dlast, here.both), jnp.zeros(here.both.shape, acc), *(zero for _ in w))
    e, sum_A, *sums = jax.lax.fori_loop(0, blocks, block, begin)
    store(dh0, e, here.both)
    store(dA, sum_A, here.both)
    for z, value in zip(dw, sums, strict=True):
        store(z, value, here.lanes)


def _decayed(dt: jax.Array, decay: jax.Array, token: Token, h: jax.Array) -> jax.Array:
    """exp(dt A) h, and 0 where a document starts."""
    return jnp.exp2(dt[None, :] * decay) * jnp.where(token.first[None, :], 0, h)
