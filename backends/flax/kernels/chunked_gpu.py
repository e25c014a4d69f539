"""The chunked scan with one decay per head on a GPU, through Pallas and Triton.

Sums of log decays within a chunk, and which tokens of it belong to one document, are computed outside.
"""

import jax
import jax.numpy as jnp
from kernels.blocks_gpu import power
from kernels.chunk import (
    Decays,
    Documents,
    Gradients,
    Rule,
    decays_of_heads,
    filled,
    head_products,
    step,
    step_back,
)
from kernels.chunks_gpu import LEAST, over_chunks

CHUNK = 64  # tokens


def chunked_scan_gpu(
    log_a: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array, pos: jax.Array, S: jax.Array, *, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """y [B, T, G, H, V] in the dtype of v, and the last S.

    log_a [B, T, G, H], k, q [B, T, G, H or 1, K], v [B, T, G, H, V], pos [B, T], S [B, G, H, K, V] of the token before.
    """
    batch, size = log_a.shape[0], min(CHUNK, power(log_a.shape[1], LEAST))
    total = filled(log_a.astype(S.dtype), size).reshape(batch, -1, size, S.shape[1] * S.shape[2])
    total = jnp.cumsum(total, 2).reshape(batch, -1, total.shape[3]).swapaxes(1, 2)
    return over_chunks(RULE, interpret, size, total, k, v, q, pos, S)


def _decays(total: jax.Array, documents: Documents) -> Decays:
    size = total.shape[0]
    place = jax.lax.broadcasted_iota(jnp.int32, (1, size), 1)
    final = jnp.sum(jnp.where(place == size - 1, total[None, :], 0), 1, keepdims=True)
    return decays_of_heads(total[None, :], total[:, None], final, documents)


def _forward(
    total: jax.Array, documents: Documents, S: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return step(_decays(total, documents), S, k, v, q)


def _backward(
    total: jax.Array,
    documents: Documents,
    S: jax.Array,
    dS: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q: jax.Array,
    dy: jax.Array,
) -> Gradients:
    found, end = step_back(_decays(total, documents), S, dS, k, v, q, dy)
    place = jax.lax.broadcasted_iota(jnp.int32, (1, total.shape[0]), 1)
    more = jnp.sum(jnp.where(place == total.shape[0] - 1, end, 0), 0)
    return found._replace(decays=jnp.sum(found.decays, 1) + more)


RULE = Rule("chunked_scan", _forward, _backward, head_products, exponentials=lambda Q, K: Q * (Q + 2))
