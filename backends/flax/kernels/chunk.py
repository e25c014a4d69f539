"""One chunk of a linear recurrence with a matrix state, on the values that a kernel of any machine has of it.

Q tokens, keys [Q, K], values [Q, V], state [K, V] (Dao and Gu 2024, arXiv:2405.21060, section 6). Products take
operands in the precision of keys and queries and are summed in at least single precision.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Documents(NamedTuple):
    """Where no document starts in between: booleans that broadcast.

    pairs [Q, Q]: between a token and one that is not later (first axis: the later one); inward [Q, 1]: between the
    state before and a token; outward [Q, 1]: between a token and the state after; kept [1, 1]: in all of the chunk.
    """

    pairs: jax.Array
    inward: jax.Array
    outward: jax.Array
    kept: jax.Array


class Gradients(NamedTuple):
    """Of what a chunk was computed from."""

    decays: jax.Array
    k: jax.Array
    v: jax.Array
    q: jax.Array
    S: jax.Array


class Rule(NamedTuple):
    """How a chunk is computed, from decays as the machine has them, and what that costs.

    forward(decays, documents, S, k, v, q) -> (y, S) and backward(decays, documents, S, dS, k, v, q, dy) -> `Gradients`.
    products(Q, K, V): multiply-adds of a chunk, forward and backward. exponentials(Q, K): of a chunk, in each pass.
    """

    name: str
    forward: Callable[..., tuple[jax.Array, jax.Array]]
    backward: Callable[..., Gradients]
    products: Callable[[int, int, int], tuple[int, int]]
    exponentials: Callable[[int, int], int]


class Decays(NamedTuple):
    """Those of `Documents`, zero where a document starts in between."""

    pairs: jax.Array
    inward: jax.Array
    outward: jax.Array
    kept: jax.Array


def decays_of_heads(row: jax.Array, column: jax.Array, final: jax.Array, documents: Documents) -> Decays:
    """Of the sums of log decays since the start of a chunk, [1, Q] and [Q, 1], and of that of all of it [1, 1]."""
    return Decays(
        pairs=jnp.exp(jnp.where(documents.pairs, column - row, -jnp.inf)),
        inward=jnp.exp(jnp.where(documents.inward, column, -jnp.inf)),
        outward=jnp.exp(jnp.where(documents.outward, final - column, -jnp.inf)),
        kept=jnp.exp(jnp.where(documents.kept, final, -jnp.inf)),
    )


def step(c: Decays, S: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array]:
    """y [Q, V] and the state after the chunk, with one decay per head."""
    half = k.dtype
    scores = dot(q, k, 1, 1) * c.pairs
    y = dot(scores.astype(half), v.astype(half), 1, 0) + c.inward * dot(q, S.astype(half), 1, 0)
    return y, c.kept * S + dot(k, (c.outward * v).astype(half), 0, 0)


def step_back(
    c: Decays, S: jax.Array, dS: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array, dy: jax.Array
) -> tuple[Gradients, jax.Array]:
    """What `step` hands back for the gradients of y and of the state after the chunk.

    decays of the gradients [Q, K]: their sum over keys is the gradient of the sum of log decays up to a token. The
    second value [1, 1] is what that up to the last receives on top.
    """
    half = k.dtype
    v, dy = v.astype(half), dy.astype(half)
    scores = (dot(q, k, 1, 1) * c.pairs).astype(half)
    dscores = (dot(dy, v, 1, 1) * c.pairs).astype(half)
    to_keys = c.outward * dot(v, dS.astype(half), 1, 1)
    dq = dot(dscores, k, 1, 0) + c.inward * dot(dy, S.astype(half), 1, 1)
    dk = dot(dscores, q, 0, 0) + to_keys
    dv = dot(scores, dy, 0, 0) + c.outward * dot(k, dS.astype(half), 1, 0)
    end = jnp.sum(k * to_keys, keepdims=True) + c.kept * jnp.sum(dS * S, keepdims=True)
    before = c.kept * dS + dot((q * c.inward).astype(half), dy, 0, 0)
    return Gradients(q * dq - k * dk, dk, dv, dq, before), end


def head_products(Q: int, K: int, V: int) -> tuple[int, int]:
    """Multiply-adds of a chunk, forward and backward."""
    return Q * (Q * (K + V) + 2 * K * V), Q * (Q * (3 * K + 2 * V) + 4 * K * V)


def dot(x: jax.Array, y: jax.Array, i: int, j: int, exact: bool = False) -> jax.Array:
    """The product of matrices over axis i of x and j of y, summed in at least single precision."""
    precision = jax.lax.Precision.HIGHEST if exact or x.dtype != jnp.bfloat16 else None
    acc = jnp.promote_types(x.dtype, jnp.float32)
    return jax.lax.dot_general(x, y, (((i,), (j,)), ((), ())), precision=precision, preferred_element_type=acc)


def filled(x: jax.Array, size: int) -> jax.Array:
    """x [B, T, ...] with zeros up to whole chunks: what is no token decays by nothing and adds nothing."""
    return jnp.pad(x, [(0, 0), (0, -x.shape[1] % size)] + [(0, 0)] * (x.ndim - 2))


def document_starts(pos: jax.Array, size: int) -> jax.Array:
    """At which place of its chunk the document of a token starts, below 0 if before it: [B, T filled up], int32.

    pos [B, T]; what fills up the last chunk belongs to the last document.
    """
    more = jnp.arange(1, -pos.shape[1] % size + 1, dtype=pos.dtype)
    pos = jnp.concatenate([pos, pos[:, -1:] + more], 1)
    return (jnp.arange(pos.shape[1]) % size - pos).astype(jnp.int32)


def of_sharers(d: jax.Array, k: jax.Array, axis: int) -> jax.Array:
    """Sums gradients over the heads that share a key, in at least single precision; `axis` is that of heads in both."""
    wide = jnp.promote_types(k.dtype, jnp.float32)
    return d.reshape(*k.shape[: axis + 1], -1, *k.shape[axis + 1 :]).sum(axis + 1, dtype=wide).astype(k.dtype)
