"""Scans of outer products with their equations on a TPU: one decay per head, or per key."""

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from kernels.blocks_tpu import Tree
from kernels.chunk import Turns, dot, head_rule, square
from kernels.chunk_sizes import ON_TPU
from kernels.chunks_tpu import ChunksTpu, over_chunks
from kernels.chunks_walk_tpu import column
from kernels.halves import right
from kernels.key_chunk import Moves, key_rule
from kernels.normalised_chunk import normalised_rule
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
    """What the equations make of y, in the dtype of x[0], and the last S, with one decay per head.

    x [B, T, G, H, V, K or 1] by their sides, w [G, H, V, K or 1], handed, keys and queries, [B, T, G, H, K], pos
    [B, T], S [B, G, H, K, V] of the token before; x but for x[0] and handed may have 1 for H, or for G and H. half: the
    precision of products. With a normaliser S and y are those of `over_chunks`.
    """
    rule, time = NORMALISED if gates.normalised else HEADS, x[0].shape[1]
    return over_chunks(ChunksTpu(rule, gates, half, interpret, time), _length(time), x, w, handed, pos, S)


def chunked_key_scan_tpu(
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
    """The same with one decay per key; nothing is handed: equations make keys and queries."""
    time = x[0].shape[1]
    passes = ChunksTpu(KEYS[gates.before], gates, half, interpret, time)
    return over_chunks(passes, _length(time), x, w, handed, pos, S)


def _length(time: int) -> int:
    """Tokens of a chunk."""
    return min(CHUNK, max(ROWS, 1 << (time - 1).bit_length()))


def _swap(x: jax.Array, half: int) -> jax.Array:
    size = x.shape[0]
    return jnp.where(right(x.shape, half), pltpu.roll(x, half, 0), pltpu.roll(x, size - half, 0))


def _sum_to_row(x: jax.Array) -> jax.Array:
    return dot(jnp.ones((8, x.shape[1]), x.dtype), x, 1, 1, exact=True)[:1]


def _until(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    here, later = square(x.shape[0])
    row = jnp.sum(jnp.where(here <= later, x, 0), 0, keepdims=True)
    return row, column(row)


def _onward(x: jax.Array) -> jax.Array:
    here, earlier = square(x.shape[0])
    return column(jnp.sum(jnp.where(here >= earlier, x, 0), 0, keepdims=True))


def _whole(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.sum(x, 0, keepdims=True), 1, keepdims=True)


TURNS = Turns(_until, _onward, _whole)
HEADS, NORMALISED = head_rule(TURNS), normalised_rule(TURNS)
MOVES = Moves(_swap, column, _sum_to_row)
KEYS = {before: key_rule(MOVES, before=before) for before in (False, True)}
