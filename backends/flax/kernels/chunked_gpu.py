"""Scans of outer products with their equations on a GPU, through Pallas and Triton: one decay per head, or per key."""

import jax
import jax.numpy as jnp
from kernels.blocks_gpu import power
from kernels.chunk import Rule, dot, head_rule, square
from kernels.chunks_gpu import LEAST, ChunksGpu, over_chunks
from kernels.key_chunk import Moves, key_rule
from kernels.tiles import Arrays, Gates

CHUNK = 64  # tokens
KEY_CHUNK = 32  # tokens, a power of two, with one decay per key


def chunked_scan_gpu(
    gates: Gates,
    x: Arrays,
    w: Arrays,
    k: jax.Array,
    q: jax.Array,
    pos: jax.Array,
    S: jax.Array,
    *,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """What the equations make of y, in the dtype of x[0], and the last S, with one decay per head.

    x [B, T, G, H, V, K or 1] by their sides, w [G, H, V, K or 1], k, q [B, T, G, H or 1, K], pos [B, T], S [B, G, H,
    K, V] of the token before. There are at most MOST keys.
    """
    return _scan(HEADS, CHUNK, interpret, gates, x, w, k, q, pos, S)


def chunked_key_scan_gpu(
    gates: Gates,
    x: Arrays,
    w: Arrays,
    k: jax.Array,
    q: jax.Array,
    pos: jax.Array,
    S: jax.Array,
    *,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """The same with one decay per key."""
    return _scan(KEYS, KEY_CHUNK, interpret, gates, x, w, k, q, pos, S)


def _scan(
    rule: Rule,
    most: int,
    interpret: bool,
    gates: Gates,
    x: Arrays,
    w: Arrays,
    k: jax.Array,
    q: jax.Array,
    pos: jax.Array,
    S: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    passes = ChunksGpu(rule, gates, interpret, min(most, power(x[0].shape[1], LEAST)))
    return over_chunks(passes, x, w, k, q, pos, S)


def _swap(x: jax.Array, half: int) -> jax.Array:
    """A product with a permutation: tiles in registers cannot be cut."""
    row, lane = square(x.shape[0])
    return dot(((row ^ lane) == half).astype(x.dtype), x, 1, 0, exact=True)


def _column(row: jax.Array) -> jax.Array:
    return row.T


HEADS = head_rule(_column)
KEYS = key_rule(Moves(swap=_swap, column=_column, sum_to_row=lambda x: jnp.sum(x, 1)[None, :]))
