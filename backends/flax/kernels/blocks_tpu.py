"""Blocks of time and channels in the vector memory of a TPU: their sizes, their rows, and how a mask turns."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from kernels.tiles import Arrays, up

TIME = 512  # tokens of a block, unless that takes too much memory
MEMORY = 12 << 20  # bytes of vector memory for the blocks of a backward pass, of the 16 MiB that a kernel gets
ROWS = 16  # tokens whose gates are computed at a time: one register in half precision, two in single
LANES = 128
ORDER = pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))  # time comes last, and in order
Ref = Any  # an array in the memory of the machine
Refs = tuple[Ref, ...]
Tree = Any  # of such arrays
Rows = slice | pl.Slice


def time_block(time: int, held: int) -> int:
    """Tokens of a block, if each of them takes `held` bytes: all of a short sequence."""
    longest = TIME
    while longest > LANES and longest * held > MEMORY:
        longest //= 2
    block: int = min(longest, up(time, ROWS))
    return block


def column(row: jax.Array, lanes: int) -> jax.Array:
    """A row [1, n] as a column on every lane, [n, lanes]."""
    turned = jnp.broadcast_to(row, (LANES, row.shape[1])).T
    return jnp.concatenate([turned] * (lanes // LANES), axis=1)


def group(i: jax.Array, left: jax.Array, width: int) -> tuple[Rows, jax.Array]:
    """Rows i * ROWS and following of a block, and which of them are tokens, if `left` are left from its start."""
    rows = jax.lax.broadcasted_iota(jnp.int32, (ROWS, width), 0)
    return pl.ds(pl.multiple_of(i * ROWS, ROWS), ROWS), rows < left - i * ROWS


def inputs(x: Refs, at: Rows, live: jax.Array, dtype: jnp.dtype) -> Arrays:
    """These rows of the inputs; nothing where there is no token."""
    return tuple(jnp.where(live, z[0, at, :].astype(dtype), 0) for z in x)


def weights(w: Refs) -> Arrays:
    """The weights of the channels of a block, one row each."""
    return tuple(z[...] for z in w)
