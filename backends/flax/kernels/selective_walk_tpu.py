"""The kernels of the selective scan on a TPU: a block of time, forward and backward, a token at a time.

A state is [N, channels]. How a token finds its B and C is what the keys say (`selective_keys_tpu.py`).
"""

import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from kernels.blocks_tpu import ROWS, Ref, Refs, column, group, inputs, weights
from kernels.selective import entering
from kernels.selective_keys_tpu import Columns, Keys
from kernels.tiles import Arrays, Gates, added


def forward(
    gates: Gates,
    keys: tuple[Keys, Keys],
    time: int,
    x: Refs,
    w: Refs,
    A: Ref,
    BC: Refs,
    first: Ref,
    h0: Ref,
    o: Ref,
    last: Ref,
    start: Ref,
    fresh: Ref,
    dt: Ref,
    v: Ref,
    keep: Ref,
    y: Ref,
    carry: Ref,
) -> None:
    """What is read out of a block of tokens, and h before and after it; A times log2(e)."""

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        carry[...] = h0[0]

    start[0, 0] = carry[...]
    left = time - pl.program_id(2) * fresh.shape[0]
    fresh[...] = column(first[0], fresh.shape[1])
    columns = _columns(keys, BC, left, carry)

    def tokens(i: jax.Array, h: jax.Array) -> jax.Array:
        at, live = group(i, left, fresh.shape[1])
        xs, ws, starts = inputs(x, at, live, h.dtype), weights(w), fresh[at, :] != 0
        dt[...], v[...] = entering(gates, xs, ws, starts, live)
        keep[...] = jnp.where(starts, 0, 1).astype(h.dtype)
        B, C = (of(i) for of in columns)
        for k in range(ROWS):
            row = pl.ds(k, 1)
            h = jnp.exp2(dt[row, :] * A[...]) * (keep[row, :] * h) + B(k) * v[row, :]
            y[row, :] = jnp.sum(C(k) * h, 0, keepdims=True)
        value = y[...] if gates.out is None else gates.out(y[...], xs, ws)
        o[0, at, :] = value.astype(o.dtype)
        return h

    carry[...] = jax.lax.fori_loop(0, fresh.shape[0] // ROWS, tokens, carry[...])
    last[0] = carry[...]


def backward(
    gates: Gates,
    keys: tuple[Keys, Keys],
    time: int,
    channels: int,
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
    fresh: Ref,
    dt: Ref,
    v: Ref,
    keep: Ref,
    y: Ref,
    dy: Ref,
    ddt: Ref,
    dv: Ref,
    decayed: Ref,
    held: Refs,
    carry: Ref,
) -> None:
    """The gradients of a block of tokens, whose states are computed again; blocks come in reverse."""
    width, acc, groups = fresh.shape[1], carry.dtype, fresh.shape[0] // ROWS
    here = pl.program_id(1) * width + jax.lax.broadcasted_iota(jnp.int32, carry.shape, 1) < channels
    decay = jnp.where(here, A[...], 0)  # sums over channels must not see what lies beyond the last
    some = here[:1]

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        carry[...] = jnp.where(here, dlast[0], 0)
        for z in (*dw, dA):
            z[...] = jnp.zeros_like(z)

    left = time - (pl.num_programs(2) - 1 - pl.program_id(2)) * fresh.shape[0]
    fresh[...] = column(first[0], width)
    columns = _columns(keys, BC, left, carry)
    add_B, add_C = (key.adder(z, width) for key, z in zip(keys, held, strict=True))
    writers = [key.writer(dz, z) for key, dz, z in zip(keys, dBC, held, strict=True)]

    def again(i: jax.Array, h: jax.Array) -> jax.Array:
        at, live = group(i, left, width)
        live &= some
        starts = fresh[at, :] != 0
        dt[at, :], v[at, :] = entering(gates, inputs(x, at, live, acc), weights(w), starts, live)
        keep[at, :] = jnp.where(starts, 0, 1).astype(acc)
        B, C = (of(i) for of in columns)
        for k in range(ROWS):
            t = i * ROWS + k
            row = pl.ds(t, 1)
            h = jnp.exp2(dt[row, :] * decay) * (keep[row, :] * h)
            decayed[t] = h
            h = h + B(k) * v[row, :]
            if gates.out is not None:
                y[row, :] = jnp.sum(C(k) * h, 0, keepdims=True)
        return h

    def back(i: jax.Array, carried: Arrays) -> Arrays:
        e, sum_A, *sums = carried
        i = groups - 1 - i
        at, live = group(i, left, width)
        live &= some
        xs, ws, starts = inputs(x, at, live, acc), weights(w), fresh[at, :] != 0
        d = jnp.where(live, do[0, at, :].astype(acc), 0)
        more: tuple[Arrays, Arrays] = ((), ())
        if gates.out_grad is not None:
            d, *more = gates.out_grad(y[at, :], xs, ws, d)
        dy[...] = jnp.where(live, d, 0)
        B, C = (of(i) for of in columns)
        for k in reversed(range(ROWS)):
            t, row = i * ROWS + k, pl.ds(i * ROWS + k, 1)
            d, h, key = dy[pl.ds(k, 1), :], decayed[t], B(k)
            g = e + C(k) * d
            turned = g * h  # the gradient of dt A, A itself without its factor of log2(e)
            ddt[pl.ds(k, 1), :] = jnp.sum(turned * decay, 0, keepdims=True) * math.log(2)
            dv[pl.ds(k, 1), :] = jnp.sum(g * key, 0, keepdims=True)
            add_B(i, k, g * v[row, :])
            add_C(i, k, (h + key * v[row, :]) * d)
            sum_A = sum_A + turned * (dt[row, :] * math.log(2))
            e = jnp.exp2(dt[row, :] * decay) * (keep[row, :] * g)
        for write in writers:
            write(i)
        through = jnp.where(live, ddt[...], 0), jnp.where(live, dv[...], 0)
        dxs, dws = gates.gates_grad(xs, ws, starts, *through)
        dxs, dws = added(dxs, more[0]), added(dws, more[1])
        for z, value in zip(dx, dxs, strict=True):
            z[0, at, :] = jnp.broadcast_to(value, live.shape).astype(z.dtype)
        grown = (z + jnp.where(live, value, 0).sum(0, keepdims=True) for z, value in zip(sums, dws, strict=True))
        return e, sum_A, *grown

    jax.lax.fori_loop(0, groups, again, jnp.where(here, start[0, 0], 0))
    carry[...], dA[0], *sums = jax.lax.fori_loop(0, groups, back, (carry[...], dA[0], *(z[0] for z in dw)))
    for z, value in zip(dw, sums, strict=True):
        z[0] = value
    dh0[0] = carry[...]


def _columns(keys: tuple[Keys, Keys], BC: Refs, left: jax.Array, carry: Ref) -> list[Columns]:
    """Where B and C of the tokens of a block are, of which `left` are there, for the channels of `carry`."""
    return [key.columns(z, left, carry.shape[1], carry.dtype) for key, z in zip(keys, BC, strict=True)]
