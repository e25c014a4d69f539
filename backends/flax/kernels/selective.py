"""What the selective scans of every machine share: their arrays, with the channels last."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from kernels.passes import Passes, run
from kernels.tiles import Arrays, Gates, accumulator


class Operands(NamedTuple):
    """Inputs [B, T, *lanes], weights [*lanes], rates [..., N, C] times log2(e), keys and queries, the state before
    [B, ..., N, C]. The lanes are the channels [C], or [groups, C] where groups have keys and queries of their own.
    """

    x: Arrays
    w: Arrays
    A: jax.Array
    BC: Arrays
    h0: jax.Array


def operands(
    x: Arrays, w: Arrays, A: jax.Array, BC: Arrays, state: jax.Array | None, lanes: tuple[int, ...]
) -> Operands:
    """From x [B, T, *axes], w [*axes], A [*axes, N], state [B, *axes, N], with the axes as `lanes`; BC as they are."""
    acc, (batch, time, *_), states = accumulator(*x, *w, A, *BC), x[0].shape, A.shape[-1]
    h0 = jnp.zeros((batch, *A.shape), acc) if state is None else state.astype(acc)
    return Operands(
        x=tuple(z.reshape(batch, time, *lanes) for z in x),
        w=tuple(z.reshape(lanes).astype(acc) for z in w),
        A=A.astype(acc).reshape(*lanes, states).mT * math.log2(math.e),  # powers of two cost a multiplication less
        BC=BC,
        h0=h0.reshape(batch, *lanes, states).mT,
    )


def scanned(passes: Passes, first: jax.Array, o: Operands, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """What is read out [B, T, *axes], after `out`, in the dtype of x[0], and the last h [B, *axes, N]."""
    y, last = run(passes, first, o)
    return y.reshape(*y.shape[:2], *axes), last.mT.reshape(last.shape[0], *axes, -1)


def entering(gates: Gates, x: Arrays, w: Arrays, first: jax.Array, live: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Step and input; what is no token has a step of nothing and adds nothing, so that the state survives."""
    dt, v = gates.gates(x, w, first)
    return jnp.where(live, dt, 0), jnp.where(live, v, 0)
