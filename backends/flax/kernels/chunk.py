"""One chunk of a linear recurrence with a matrix state, on the values that a kernel of any machine has of it.

Q tokens, keys [Q, K], values [Q, V], state [K, V] (Dao and Gu 2024, arXiv:2405.21060, section 6). Products take
operands in the precision of keys and queries and are summed in at least single precision.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Documents(NamedTuple):
    """Where no document starts in between: booleans that broadcast.

    pairs [Q, Q]: between a token and one that is not later (first axis: the later one); inward [Q, 1]: between the
    state before and a token; outward [Q, 1]: between a token and the state after; kept [1, 1]: in all of the chunk.
    first [Q, 1]: whether one starts at a token.
    """

    pairs: jax.Array
    inward: jax.Array
    outward: jax.Array
    kept: jax.Array
    first: jax.Array


class Gradients(NamedTuple):
    """Of what a chunk was computed from."""

    logs: jax.Array
    k: jax.Array
    v: jax.Array
    q: jax.Array
    S: jax.Array


class Rule(NamedTuple):
    """How the tokens of a chunk meet one another and the state, and what that costs.

    meet(logs, documents, k, q) -> met, the decays and scores, from log decays [Q, 1] or, one for each key, [Q, K];
    read(met, S, v) -> y [Q, V] and carry(met, S, v) -> the state after the chunk; back(met, S, dS, v, dy) ->
    `Gradients` for those of y and of the state after.
    products(Q, K, V): multiply-adds of a chunk, forward, backward and to read once more. exponentials(Q, K): of a
    chunk, in each pass.
    """

    name: str
    per_key: bool
    meet: Callable[[jax.Array, Documents, jax.Array, jax.Array], Any]
    read: Callable[[Any, jax.Array, jax.Array], jax.Array]
    carry: Callable[[Any, jax.Array, jax.Array], jax.Array]
    back: Callable[[Any, jax.Array, jax.Array, jax.Array, jax.Array], Gradients]
    products: Callable[[int, int, int], tuple[int, int, int]]
    exponentials: Callable[[int, int], int]


Column = Callable[[jax.Array], jax.Array]
"""How a machine turns a row [1, n] to a column [n, 1]."""


def head_rule(column: Column) -> Rule:
    """That of one decay per head."""
    return Rule(
        name="chunked_scan",
        per_key=False,
        meet=functools.partial(_meet, column),
        read=_read,
        carry=_carry,
        back=functools.partial(_back, column),
        products=_products,
        exponentials=lambda Q, K: Q * (Q + 2),
    )


class _Met(NamedTuple):
    """Decays, zero where a document starts in between, and scores between the tokens of a chunk.

    pairs, scores [Q, Q]; inward, outward [Q, 1]; kept [1, 1]; keys and queries [Q, K].
    """

    pairs: jax.Array
    inward: jax.Array
    outward: jax.Array
    kept: jax.Array
    scores: jax.Array
    k: jax.Array
    q: jax.Array


def _meet(column: Column, logs: jax.Array, documents: Documents, k: jax.Array, q: jax.Array) -> _Met:
    here, later = square(logs.shape[0])
    row = jnp.sum(jnp.where(here <= later, logs, 0), 0, keepdims=True)  # up to each token, with its own
    until, whole = column(row), jnp.sum(logs, 0, keepdims=True)
    pairs = jnp.exp(jnp.where(documents.pairs, until - row, -jnp.inf))
    return _Met(
        pairs=pairs,
        inward=jnp.exp(jnp.where(documents.inward, until, -jnp.inf)),
        outward=jnp.exp(jnp.where(documents.outward, whole - until, -jnp.inf)),
        kept=jnp.exp(jnp.where(documents.kept, whole, -jnp.inf)),
        scores=dot(q, k, 1, 1) * pairs,
        k=k,
        q=q,
    )


def _read(met: _Met, S: jax.Array, v: jax.Array) -> jax.Array:
    half = met.k.dtype
    y = dot(met.scores.astype(half), v.astype(half), 1, 0)
    return y + met.inward * dot(met.q, S.astype(half), 1, 0)


def _carry(met: _Met, S: jax.Array, v: jax.Array) -> jax.Array:
    return met.kept * S + dot(met.k, (met.outward * v).astype(met.k.dtype), 0, 0)


def _back(column: Column, met: _Met, S: jax.Array, dS: jax.Array, v: jax.Array, dy: jax.Array) -> Gradients:
    k, q, half = met.k, met.q, met.k.dtype
    v, dy = v.astype(half), dy.astype(half)
    dscores = (dot(dy, v, 1, 1) * met.pairs).astype(half)
    to_keys = met.outward * dot(v, dS.astype(half), 1, 1)
    dq = dot(dscores, k, 1, 0) + met.inward * dot(dy, S.astype(half), 1, 1)
    dk = dot(dscores, q, 0, 0) + to_keys
    dv = dot(met.scores.astype(half), dy, 0, 0) + met.outward * dot(k, dS.astype(half), 1, 0)
    each = jnp.sum(q * dq - k * dk, 1, keepdims=True)  # the gradient of the sum of log decays up to a token
    here, earlier = square(each.shape[0])
    row = jnp.sum(jnp.where(here >= earlier, each, 0), 0, keepdims=True)
    whole = _sum(k * to_keys, each.shape[0]) + met.kept * _sum(dS * S, each.shape[0])
    before = met.kept * dS + dot((q * met.inward).astype(half), dy, 0, 0)
    return Gradients(column(row) + whole, dk, dv, dq, before)


def _sum(x: jax.Array, rows: int) -> jax.Array:
    """Of all elements, as [rows, 1]: by tiles alone, since Triton 3.7 sums no vector of a product for Blackwell."""
    row = jnp.sum(x, 0, keepdims=True)
    return jnp.sum(jnp.broadcast_to(row, (rows, row.shape[1])), 1, keepdims=True)


def _products(Q: int, K: int, V: int) -> tuple[int, int, int]:
    return Q * (Q * (K + V) + 2 * K * V), Q * (Q * (3 * K + 2 * V) + 4 * K * V), again(Q, K, V)


def again(Q: int, K: int, V: int) -> int:
    """Multiply-adds of reading a chunk once its scores are there."""
    return Q * V * (Q + K)


def square(size: int) -> tuple[jax.Array, jax.Array]:
    """The places of the tokens of a chunk along the first and the second axis of [Q, Q]."""
    first = jax.lax.broadcasted_iota(jnp.int32, (size, size), 0)
    return first, jax.lax.broadcasted_iota(jnp.int32, (size, size), 1)


def dot(x: jax.Array, y: jax.Array, i: int, j: int, exact: bool = False) -> jax.Array:
    """The product of matrices over axis i of x and j of y, summed in at least single precision."""
    precision = jax.lax.Precision.HIGHEST if exact or x.dtype != jnp.bfloat16 else None
    acc = jnp.promote_types(x.dtype, jnp.float32)
    return jax.lax.dot_general(x, y, (((i,), (j,)), ((), ())), precision=precision, preferred_element_type=acc)


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
