"""What the selective scans of every machine share: their arrays by flat channel."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from kernels.passes import Passes, run
from kernels.tiles import Arrays, Gates, accumulator, flat


class Operands(NamedTuple):
    """Inputs [B, T, C], weights [C], rates [N, C] times log2(e), B and C [B, T, N], the state before [B, N, C]."""

    x: Arrays
    w: Arrays
    A: jax.Array
    BC: Arrays
    h0: jax.Array


def operands(x: Arrays, w: Arrays, A: jax.Array, B: jax.Array, C: jax.Array, state: jax.Array | None) -> Operands:
    """From x [B, T, *axes], w [*axes], A [*axes, N], B, C [B, T, N], state [B, *axes, N]."""
    acc, (batch, *_), states = accumulator(*x, *w, A, B, C), x[0].shape, A.shape[-1]
    h0 = jnp.zeros((batch, *A.shape), acc) if state is None else state.astype(acc)
    return Operands(
        x=tuple(flat(z, 2) for z in x),
        w=tuple(flat(z, 0).astype(acc) for z in w),
        A=A.astype(acc).reshape(-1, states).T * math.log2(math.e),  # powers of two cost a multiplication less
        BC=(B, C),
        h0=h0.reshape(batch, -1, states).swapaxes(1, 2),
    )


def scanned(passes: Passes, first: jax.Array, o: Operands, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """What is read out [B, T, *axes], after `out`, in the dtype of x[0], and the last h [B, *axes, N]."""
    y, last = run(passes, first, o)
    return y.reshape(*y.shape[:2], *axes), last.swapaxes(1, 2).reshape(last.shape[0], *axes, -1)


def entering(gates: Gates, x: Arrays, w: Arrays, first: jax.Array, live: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Step and input; what is no token has a step of nothing and adds nothing, so that the state survives."""
    dt, v = gates.gates(x, w, first)
    return jnp.where(live, dt, 0), jnp.where(live, v, 0)
