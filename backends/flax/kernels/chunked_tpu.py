"""Scans of outer products with their equations on a TPU: one decay per head, or per key."""

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from kernels.blocks_tpu import Tree
from kernels.chunk import Turns, square
from kernels.chunk_rules import rules
from kernels.chunk_sizes import ON_TPU
from kernels.chunks_tpu import ChunksTpu, over_chunks
from kernels.chunks_walk_tpu import column
from kernels.halves import right
from kernels.tiles import Arrays, Gates

CHUNK = ON_TPU
ROWS = 16


def chunked_scan_tpu(
    gates: Gates,
    x: Arrays,
    w: Arrays,
    handed: Arrays,
    pos: jax.Array,
    S: Tree,
    *,
    half: jnp.dtype,
    interpret: bool,
) -> tuple[Tree, Tree]:
    """What the equations make of y, and the last S: see `over_chunks`.

    There is one decay per head where keys and queries are handed, else, where equations make them, one per key. half:
    the precision of products.
    """
    time = x[0].shape[1]
    passes = ChunksTpu(RULES.rule(gates, per_key=not handed), gates, half, interpret, time)
    return over_chunks(passes, _length(time), x, w, handed, pos, S)


def _length(time: int) -> int:
    """Tokens of a chunk."""
    return min(CHUNK, max(ROWS, 1 << (time - 1).bit_length()))


def _swap(x: jax.Array, half: int) -> jax.Array:
    size = x.shape[0]
    return jnp.where(right(x.shape, half), pltpu.roll(x, half, 0), pltpu.roll(x, size - half, 0))


def _until(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    here, later = square(x.shape[0])
    row = jnp.sum(jnp.where(here <= later, x, 0), 0, keepdims=True)
    return row, column(row), jnp.sum(x, 0, keepdims=True)


def _onward(x: jax.Array) -> jax.Array:
    here, earlier = square(x.shape[0])
    return column(jnp.sum(jnp.where(here >= earlier, x, 0), 0, keepdims=True))


def _whole(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.sum(x, 0, keepdims=True), 1, keepdims=True)


RULES = rules(Turns(_until, _onward, _whole), _swap)
