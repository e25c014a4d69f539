"""One chunk of a linear recurrence with a matrix state, on the values that a kernel of any machine has of it.

Q tokens, keys [Q, K], values [Q, V], state [K, V] (Dao and Gu 2024, arXiv:2405.21060, section 6). Products take
operands in the precision of the values and are summed in at least single precision.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Decays(NamedTuple):
    """Between the tokens of a chunk, from the state before to each, from each to the state after, of the state.

    pairs [Q, Q] (the later token first), inward and outward [Q, 1], kept [1, 1]; zero where a document starts between.
    """

    pairs: jax.Array
    inward: jax.Array
    outward: jax.Array
    kept: jax.Array


def step(c: Decays, S: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array]:
    """y [Q, V] and the state after the chunk, with one decay per head."""
    scores = dot(q, k, 1, 1) * c.pairs
    y = dot(scores.astype(v.dtype), v, 1, 0) + c.inward * dot(q, S.astype(q.dtype), 1, 0)
    return y, c.kept * S + dot(k, (c.outward * v).astype(v.dtype), 0, 0)


class Gradients(NamedTuple):
    """Of a chunk with one decay per head: keys, values, queries, the state before, log decays.

    The gradient of the sum of log decays up to a token is the sum over keys of `flow` [Q, K], and that up to the last
    receives `end` [1, 1] on top.
    """

    k: jax.Array
    v: jax.Array
    q: jax.Array
    S: jax.Array
    flow: jax.Array
    end: jax.Array


def step_back(
    c: Decays, S: jax.Array, dS: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array, dy: jax.Array
) -> Gradients:
    """What `step` hands back for the gradients of y and of the state after the chunk."""
    half = v.dtype
    scores = (dot(q, k, 1, 1) * c.pairs).astype(half)
    dscores = (dot(dy, v, 1, 1) * c.pairs).astype(half)
    to_keys = c.outward * dot(v, dS.astype(half), 1, 1)
    dq = dot(dscores, k, 1, 0) + c.inward * dot(dy, S.astype(half), 1, 1)
    dk = dot(dscores, q, 0, 0) + to_keys
    dv = dot(scores, dy, 0, 0) + c.outward * dot(k, dS.astype(half), 1, 0)
    end = jnp.sum(k * to_keys, keepdims=True) + c.kept * jnp.sum(dS * S, keepdims=True)
    before = c.kept * dS + dot((q * c.inward).astype(half), dy, 0, 0)
    return Gradients(dk, dv, dq, before, q * dq - k * dk, end)


def dot(x: jax.Array, y: jax.Array, i: int, j: int, exact: bool = False) -> jax.Array:
    """The product of matrices over axis i of x and j of y, summed in at least single precision."""
    precision = jax.lax.Precision.HIGHEST if exact or x.dtype != jnp.bfloat16 else None
    acc = jnp.promote_types(x.dtype, jnp.float32)
    return jax.lax.dot_general(x, y, (((i,), (j,)), ((), ())), precision=precision, preferred_element_type=acc)


def of_sharers(d: jax.Array, k: jax.Array) -> jax.Array:
    """Sums gradients [B, heads, ...] over the heads that share a key [B, fewer, ...], in at least single precision."""
    batch, heads = k.shape[:2]
    wide = jnp.promote_types(k.dtype, jnp.float32)
    return d.reshape(batch, heads, -1, *k.shape[2:]).sum(2, dtype=wide).astype(k.dtype)
