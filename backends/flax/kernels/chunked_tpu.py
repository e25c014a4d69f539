"""The chunked scan with one decay per head on a TPU.

Sums of log decays within a chunk, and which tokens of it belong to one document, are computed outside.
"""

import jax
import jax.numpy as jnp
from kernels.chunk import (
    Decays,
    Documents,
    Gradients,
    Rule,
    decays_of_heads,
    dot,
    filled,
    head_products,
    step,
    step_back,
)
from kernels.chunks_tpu import over_chunks
from kernels.tiles import up

CHUNK = 128  # tokens
ROWS = 16


def chunked_scan_tpu(
    log_a: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array, pos: jax.Array, S: jax.Array, *, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """y [B, T, G, H, V] in the dtype of v, and the last S.

    log_a [B, T, G, H], k, q [B, T, G, H or 1, K], v [B, T, G, H, V], pos [B, T], S [B, G, H, K, V] of the token before.
    """
    batch, size = log_a.shape[0], min(CHUNK, up(log_a.shape[1], ROWS))
    total = filled(log_a.astype(S.dtype), size).reshape(batch, -1, size, S.shape[1] * S.shape[2])
    total = jnp.cumsum(total, 2).transpose(0, 3, 1, 2)[:, :, :, None]
    return over_chunks(RULE, interpret, size, total, k, v, q, pos, S)


def _decays(total: jax.Array, documents: Documents) -> Decays:
    size = total.shape[1]
    column = jnp.broadcast_to(total, (size, size)).T  # on every lane
    found = decays_of_heads(total, column, total[:, size - 1 :], documents)
    return found._replace(inward=found.inward[:, :1], outward=found.outward[:, :1])


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
    ones = jnp.ones((8, k.shape[1]), S.dtype)
    here = dot(ones, found.decays, 1, 1, exact=True)[:1]  # tokens along lanes
    place = jax.lax.broadcasted_iota(jnp.int32, here.shape, 1)
    return found._replace(decays=here + jnp.where(place == here.shape[1] - 1, end, 0))


RULE = Rule("chunked_scan", _forward, _backward, head_products, exponentials=lambda Q, K: Q * (Q + 2))
