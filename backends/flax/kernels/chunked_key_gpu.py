"""The chunked scan with one decay per key on a GPU, through Pallas and Triton."""

import jax
import jax.numpy as jnp
from kernels.blocks_gpu import power
from kernels.chunk import dot, filled
from kernels.chunks_gpu import LEAST, over_chunks
from kernels.key_chunk import Moves, rule

CHUNK = 32  # tokens, a power of two


def chunked_key_scan_gpu(
    log_a: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array, pos: jax.Array, S: jax.Array, *, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """As `chunked_scan_gpu`, with log_a [B, T, G, H, K]."""
    size = min(CHUNK, power(log_a.shape[1], LEAST))
    logs = filled(log_a.astype(S.dtype), size)
    logs = logs.reshape(*logs.shape[:2], -1, logs.shape[-1]).swapaxes(1, 2)
    return over_chunks(RULE, interpret, size, logs, k, v, q, pos, S)


def _swap(x: jax.Array, half: int) -> jax.Array:
    """A product with a permutation: tiles in registers cannot be cut."""
    row = jax.lax.broadcasted_iota(jnp.int32, (x.shape[0], x.shape[0]), 0)
    lane = jax.lax.broadcasted_iota(jnp.int32, (x.shape[0], x.shape[0]), 1)
    return dot(((row ^ lane) == half).astype(x.dtype), x, 1, 0, exact=True)


RULE = rule(Moves(swap=_swap, column=lambda row: row.T, sum_to_row=lambda x: jnp.sum(x, 1)[None, :]))
