"""Scans of outer products with their equations on a GPU, through Pallas and Triton: one decay per head, or per key."""

import jax
import jax.numpy as jnp
from kernels.blocks_gpu import Tree, power
from kernels.chunk import Rule, Turns, head_rule, last_of
from kernels.chunk_sizes import ON_GPU, tokens_per_key
from kernels.chunks_gpu import LEAST, ChunksGpu, over_chunks
from kernels.key_chunk import Moves, key_rule
from kernels.normalised_chunk import normalised_rule
from kernels.tiles import Arrays, Gates

CHUNK = ON_GPU


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
    """What the equations make of y, in the dtype of x[0], and the last S, with one decay per head.

    x [B, T, G, H, V, K or 1] by their sides, w [G, H, V, K or 1], handed, keys and queries, [B, T, G, H, K], pos
    [B, T], S [B, G, H, K, V] of the token before; x but for x[0] and handed may have 1 for H, or for G and H. half: the
    precision of products. There are at most MOST keys. With a normaliser S and y are those of `over_chunks`.
    """
    rule = NORMALISED if gates.normalised else HEADS
    return over_chunks(_passes(rule, CHUNK, gates, x, half, interpret), x, w, handed, pos, S)


def chunked_key_scan_gpu(
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
    most = tokens_per_key(S.shape[3])
    return over_chunks(_passes(KEYS[gates.before], most, gates, x, half, interpret), x, w, handed, pos, S)


def _passes(rule: Rule, most: int, gates: Gates, x: Arrays, half: jnp.dtype, interpret: bool) -> ChunksGpu:
    return ChunksGpu(rule, gates, half, interpret, min(most, power(x[0].shape[1], LEAST)))


def _swap(x: jax.Array, half: int) -> jax.Array:
    """As sums over the two halves of a block of which one is left out: tiles in registers cannot be cut."""
    blocks = x.reshape(-1, 2, half, x.shape[1])
    late = jax.lax.broadcasted_iota(jnp.int32, blocks.shape, 1) == 1
    first = jnp.sum(jnp.where(late, 0, blocks), 1, keepdims=True)
    second = jnp.sum(jnp.where(late, blocks, 0), 1, keepdims=True)
    return jnp.where(late, first, second).reshape(x.shape)


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


TURNS = Turns(_until, _onward, _whole)
HEADS, NORMALISED = head_rule(TURNS), normalised_rule(TURNS)
MOVES = Moves(swap=_swap, column=_column, sum_to_row=lambda x: jnp.sum(x, 1)[None, :])
KEYS = {before: key_rule(MOVES, before=before) for before in (False, True)}
