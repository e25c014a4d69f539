"""Scans of outer products with their equations on a GPU, through Pallas and Triton: one decay per head, or per key."""

import jax
import jax.numpy as jnp
from kernels.blocks_gpu import power
from kernels.chunk import Rule, Turns, dot, head_rule, last_of, square
from kernels.chunk_sizes import ON_GPU, ON_GPU_PER_KEY
from kernels.chunks_gpu import LEAST, ChunksGpu, over_chunks
from kernels.key_chunk import Moves, key_rule
from kernels.tiles import Arrays, Gates

CHUNK, KEY_CHUNK = ON_GPU, ON_GPU_PER_KEY


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


def _until(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    total = jnp.cumsum(jnp.sum(x, 1))
    return total[None, :], total[:, None]


def _onward(x: jax.Array) -> jax.Array:
    """From the sums up to each token: masks of pairs would give threads a row of numbers each."""
    each = jnp.sum(x, 1)
    total = jnp.cumsum(each)
    return last_of(total[None, :]) + (each - total)[:, None]


def _whole(x: jax.Array) -> jax.Array:
    """By a scan: Triton 3.7 does not compile the sum of a vector that comes of a product for Blackwell."""
    return last_of(jnp.cumsum(jnp.sum(x, 1))[None, :])


HEADS = head_rule(Turns(_until, _onward, _whole))
KEYS = key_rule(Moves(swap=_swap, column=_column, sum_to_row=lambda x: jnp.sum(x, 1)[None, :]))
