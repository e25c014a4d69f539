"""Scans of outer products with their equations on a GPU, through Pallas and Triton: one decay per head, or per key."""

import jax
import jax.numpy as jnp
from kernels.blocks_gpu import Tree, power
from kernels.chunk import Turns
from kernels.chunk_places_gpu import last_of
from kernels.chunk_rules import rules
from kernels.chunk_sizes import tokens_on_gpu
from kernels.chunks_gpu import LEAST, ChunksGpu, over_chunks
from kernels.tiles import Arrays, Gates


def chunked_scan_gpu(
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
    per_key = not handed
    size = min(tokens_on_gpu(per_key), power(x[0].shape[1], LEAST))
    passes = ChunksGpu(RULES.rule(gates, per_key), gates, half, interpret, size)
    return over_chunks(passes, x, w, handed, pos, S)


def _swap(x: jax.Array, half: int) -> jax.Array:
    """As sums over the two halves of a block of which one is left out: tiles in registers cannot be cut."""
    blocks = x.reshape(-1, 2, half, x.shape[1])
    late = jax.lax.broadcasted_iota(jnp.int32, blocks.shape, 1) == 1
    first = jnp.sum(jnp.where(late, 0, blocks), 1, keepdims=True)
    second = jnp.sum(jnp.where(late, blocks, 0), 1, keepdims=True)
    return jnp.where(late, first, second).reshape(x.shape)


def _until(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    total = jnp.cumsum(jnp.sum(x, 1))
    return total[None, :], total[:, None], last_of(total)


def _onward(x: jax.Array) -> jax.Array:
    """From the sums up to each token: masks of pairs would give threads a row of numbers each."""
    each = jnp.sum(x, 1)
    total = jnp.cumsum(each)
    return last_of(total) + (each - total)[:, None]


def _whole(x: jax.Array) -> jax.Array:
    """By a scan: Triton 3.7 does not compile the sum of a vector that comes of a product for Blackwell."""
    return last_of(jnp.cumsum(jnp.sum(x, 1)))


RULES = rules(Turns(_until, _onward, _whole), _swap)
