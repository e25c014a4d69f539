"""The chunked scan with one decay per key on a TPU."""

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from kernels.blocks_tpu import LANES
from kernels.chunk import dot, filled
from kernels.chunks_tpu import over_chunks
from kernels.halves import right
from kernels.key_chunk import Moves, rule

CHUNK = 128  # tokens, a power of two
ROWS = 16


def chunked_key_scan_tpu(
    log_a: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array, pos: jax.Array, S: jax.Array, *, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """As `chunked_scan_tpu`, with log_a [B, T, G, H, K]."""
    batch, size = log_a.shape[0], min(CHUNK, max(ROWS, 1 << (log_a.shape[1] - 1).bit_length()))
    logs = filled(log_a.astype(S.dtype), size).reshape(batch, -1, size, S.shape[1] * S.shape[2], log_a.shape[-1])
    return over_chunks(RULE, interpret, size, logs.transpose(0, 3, 1, 2, 4), k, v, q, pos, S)


def _swap(x: jax.Array, half: int) -> jax.Array:
    size = x.shape[0]
    return jnp.where(right(x.shape, half), pltpu.roll(x, half, 0), pltpu.roll(x, size - half, 0))


def _column(row: jax.Array) -> jax.Array:
    return jnp.broadcast_to(row, (LANES, row.shape[1])).T[:, :1]


def _sum_to_row(x: jax.Array) -> jax.Array:
    return dot(jnp.ones((8, x.shape[1]), x.dtype), x, 1, 1, exact=True)[:1]


RULE = rule(Moves(_swap, _column, _sum_to_row))
