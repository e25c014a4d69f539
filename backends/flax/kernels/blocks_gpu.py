"""Masked tiles in the memory of a GPU, for kernels through Pallas and Triton: axes of tiles are powers of two."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.extend.core import ClosedJaxpr, Jaxpr
from kernels.tiles import Arrays, Gates, Machine, array, behind, machine

Ref = Any  # an array in the memory of the machine
Refs = tuple[Ref, ...]
Tree = Any  # of such arrays
MISSING = frozenset({"erf", "erfc"})  # what Triton has no operation for through Pallas


def machine_of(gates: Gates, x: Arrays, w: Arrays, impl: Machine | None) -> Machine:
    """Whose kernel runs these gates, `machine`; array code where they need what Triton does not have."""
    chosen = machine(impl, x[0].shape[1])
    if chosen != "gpu":
        return chosen
    one = array((1,), jnp.float32)
    tokens, weights = tuple(one for _ in x), tuple(one for _ in w)
    known = in_triton(gates.gates, tokens, weights, array((1,), jnp.bool))
    if gates.out is not None:
        known &= in_triton(gates.out, one, behind(gates, tokens, one), weights)
    return "gpu" if known else "xla"


def in_triton(function: Callable[..., object], *arguments: Tree) -> bool:
    """Whether Triton has all operations of a function of such arguments."""
    return MISSING.isdisjoint(operations(jax.make_jaxpr(function)(*arguments).jaxpr))


def operations(jaxpr: Jaxpr) -> Iterator[str]:
    """The names of all operations in a program and in the programs inside of it."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in equation.params.values():
            if isinstance(inner, ClosedJaxpr):
                yield from operations(inner.jaxpr)


def power(size: int, least: int = 1) -> int:
    """The least power of two that is not below `size`, nor below `least`."""
    return max(least, 1 << (size - 1).bit_length())


def load(ref: Ref, mask: jax.Array | None) -> jax.Array:
    """What a reference has where the mask is true, else 0; all of it without a mask."""
    value: jax.Array = plgpu.load(ref) if mask is None else plgpu.load(ref, mask=mask, other=0)
    return value


def store(ref: Ref, value: jax.Array, mask: jax.Array | None) -> None:
    """Writes in the dtype of the reference where the mask is true, or everywhere."""
    plgpu.store(ref, value.astype(ref.dtype), mask=mask)


def tile(ref: Ref, rows: jax.Array, lanes: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The tile [rows, lanes] of a reference [T, C] at these places, 0 where the mask is false."""
    return load(ref.at[rows[:, None], lanes[None, :]], mask)


def lanes_of(channels: int, width: int) -> jax.Array:
    """Which of the `width` channels of a program there are; the grid is batch and channels."""
    return pl.program_id(1) * width + jnp.arange(width, dtype=jnp.int32) < channels


class Token(NamedTuple):
    """A token of a block, on the lanes of a program: its place, whether there is one, inputs, whether it starts."""

    t: jax.Array
    live: jax.Array
    x: Arrays
    first: jax.Array


def tokens_of(
    n: jax.Array, steps: int, time: int, lanes: jax.Array, x: Refs, first: Ref, acc: jnp.dtype
) -> list[Token]:
    """The tokens of block n, all read before any is computed with."""

    def token(t: jax.Array) -> Token:
        live = jnp.broadcast_to(t < time, lanes.shape)
        fresh = jnp.broadcast_to(first[t] != 0, lanes.shape)
        return Token(t, live, tuple(load(z.at[t], lanes & live).astype(acc) for z in x), fresh)

    return [token(n * steps + k) for k in range(steps)]
