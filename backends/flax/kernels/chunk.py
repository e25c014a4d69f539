"""One chunk of a linear recurrence with a matrix state, on the values that a kernel of any machine has of it.

Q tokens, keys [Q, K], values [Q, V], state [V, K] (Dao and Gu 2024, arXiv:2405.21060, section 6). Products take
operands in the precision of keys and queries and are summed in at least single precision.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from kernels.tiles import Side


class Documents(NamedTuple):
    """Where no document starts in between: booleans that broadcast.

    pairs [Q, Q]: between a token and one that is not later (first axis: the later one); inward [Q, 1]: between the
    state before and a token; outward [Q, 1]: between a token and the state after; kept [1, 1] or []: in all of the
    chunk. first [Q, 1]: whether one starts at a token.
    """

    pairs: jax.Array
    inward: jax.Array
    outward: jax.Array
    kept: jax.Array
    first: jax.Array


class Keys(NamedTuple):
    """Keys and queries [Q, K] of a chunk, operands of products in the precision `half`.

    bonus: keys by which a query reads, besides, the value of its own token, if there are any.
    """

    k: jax.Array
    q: jax.Array
    half: jnp.dtype
    bonus: jax.Array | None = None


class Gradients(NamedTuple):
    """Of what a chunk was computed from, but for the queries."""

    logs: jax.Array
    k: jax.Array
    v: jax.Array
    S: Any
    bonus: jax.Array | None = None


class Products(NamedTuple):
    """Multiply-adds in matrix products, function by function of a `Rule`."""

    meet: int
    read: int
    carry: int
    pull: int
    back_queries: int
    back_keys: int


class Rule(NamedTuple):
    """How the tokens of a chunk meet one another and the state, and what that costs.

    meet(logs, documents, keys) -> met, the decays and scores, from log decays [Q, 1] or, one for each key, [Q, K];
    read(met, S, v) -> y [Q, V] and carry(met, S, v) -> the state after the chunk.
    Back, from the gradients dy of y and dS of the state after: pull(met, v, dy) -> dscores [Q, Q]; back_queries(met,
    dscores, S, dy, y) -> (dq, share), the gradient of the queries and their share in that of the log decays; fade(S,
    dS), what decays of the state hand back, [1, 1] or [1, K]; back_keys(met, dscores, fade, dS, v, dy, share) ->
    `Gradients`. With a normaliser S is a `State` and y a `Read`, and so are their gradients.
    side: along what log decays vary. products(Q, K, V): multiply-adds of a chunk. exponentials(Q, K): those of `meet`.
    """

    name: str
    side: Side
    meet: Callable[[jax.Array, Documents, Keys], Any]
    read: Callable[[Any, Any, jax.Array], Any]
    carry: Callable[[Any, Any, jax.Array], Any]
    pull: Callable[[Any, jax.Array, Any], jax.Array]
    back_queries: Callable[[Any, jax.Array, Any, Any, Any], tuple[jax.Array, jax.Array]]
    fade: Callable[[Any, Any], jax.Array]
    back_keys: Callable[[Any, jax.Array, jax.Array, Any, jax.Array, Any, jax.Array], Gradients]
    products: Callable[[int, int, int], Products]
    exponentials: Callable[[int, int], int]


class Turns(NamedTuple):
    """How a machine sums over the tokens and over the tiles of a chunk.

    until(x [Q, 1]) -> (row [1, Q], column [Q, 1], whole): the sums up to each token, with its own, and that of all.
    onward(x [Q, 1]) -> [Q, 1]: the sums from each token on. whole(x [m, n]): the sum of all elements. A single number
    is [1, 1] or, where a machine has those apart from tiles, [].
    """

    until: Callable[[jax.Array], tuple[jax.Array, jax.Array, jax.Array]]
    onward: Callable[[jax.Array], jax.Array]
    whole: Callable[[jax.Array], jax.Array]


def head_rule(turns: Turns) -> Rule:
    """That of one decay per head."""
    return Rule(
        name="chunked_scan",
        side="head",
        meet=functools.partial(_meet, turns),
        read=read,
        carry=carry,
        pull=pull,
        back_queries=back_queries,
        fade=lambda S, dS: turns.whole(dS * S),
        back_keys=functools.partial(back_keys, turns),
        products=_products,
        exponentials=lambda Q, K: Q * (Q + 2),
    )


class Met(NamedTuple):
    """Decays, zero where a document starts in between, and scores between the tokens of a chunk.

    pairs, scores [Q, Q]; inward, outward [Q, 1]; kept [1, 1] or []; keys and queries [Q, K].
    """

    pairs: jax.Array
    inward: jax.Array
    outward: jax.Array
    kept: jax.Array
    scores: jax.Array
    k: jax.Array
    q: jax.Array


def _meet(turns: Turns, logs: jax.Array, documents: Documents, keys: Keys) -> Met:
    (row, until, whole), k, q = turns.until(logs), keys.k, keys.q
    pairs = jnp.exp(jnp.where(documents.pairs, until - row, -jnp.inf))
    return Met(
        pairs=pairs,
        inward=jnp.exp(jnp.where(documents.inward, until, -jnp.inf)),
        outward=jnp.exp(jnp.where(documents.outward, whole - until, -jnp.inf)),
        kept=jnp.exp(jnp.where(documents.kept, whole, -jnp.inf)),
        scores=dot(q, k, 1, 1) * pairs,
        k=k,
        q=q,
    )


def read(met: Met, S: jax.Array, v: jax.Array) -> jax.Array:
    """What the queries read of the values of a chunk and of the state before it."""
    half = met.k.dtype
    y = dot(met.scores.astype(half), v.astype(half), 1, 0)
    return y + met.inward * dot(met.q, S.astype(half), 1, 1)


def carry(met: Met, S: jax.Array, v: jax.Array) -> jax.Array:
    """The state after a chunk."""
    return met.kept * S + dot((met.outward * v).astype(met.k.dtype), met.k, 0, 0)


def pull(met: Met, v: jax.Array, dy: jax.Array, ones: jax.Array | None = None) -> jax.Array:
    """The gradients of the scores before they decay; ones [Q, 1]: what is read of values that are one has these."""
    half = met.k.dtype
    return (_with(dot(dy.astype(half), v.astype(half), 1, 1), ones) * met.pairs).astype(half)


def back_queries(
    met: Met, dscores: jax.Array, S: jax.Array, dy: jax.Array, y: jax.Array, ones: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """dq, and its share [Q, 1] in the gradient of the sum of log decays up to a token: q dq or, which is less, y dy.

    ones [Q, K]: what values that are one hand back through the state. y dy lacks that, q dq has it.
    """
    half = met.k.dtype
    dq = dot(dscores, met.k, 1, 0) + met.inward * _with(dot(dy.astype(half), S.astype(half), 1, 0), ones)
    share = y * dy.astype(half) if ones is None else met.q * dq
    return dq, jnp.sum(share, 1, keepdims=True)


def back_keys(
    turns: Turns,
    met: Met,
    dscores: jax.Array,
    fade: jax.Array,
    dS: jax.Array,
    v: jax.Array,
    dy: jax.Array,
    share: jax.Array,
    ones: jax.Array | None = None,
) -> Gradients:
    """The gradients of all else; ones [1, K]: what keys have from the state of values that are one.

    The last product is one of tokens, not of the state, as forward.
    """
    k, q, half = met.k, met.q, met.k.dtype
    late, entered = dS.astype(half), (met.inward * dy).astype(half)
    v, dy = v.astype(half), dy.astype(half)
    v_passed = met.outward * dot(k, late, 1, 1)
    dv = dot(met.scores.astype(half), dy, 0, 0) + v_passed
    k_passed = met.outward * _with(dot(v, late, 1, 0), ones)
    before = met.kept * dS + dot(entered, q, 0, 0)
    dk = dot(dscores, q, 0, 0) + k_passed
    whole, passed = (v * dv, v * v_passed) if ones is None else (k * dk, k * k_passed)  # as for the share
    each = share - jnp.sum(whole, 1, keepdims=True)  # pairs of tokens that are both later cancel
    logs = turns.onward(each) + turns.whole(passed) + met.kept * fade
    return Gradients(logs, dk, dv, before)


def _with(x: jax.Array, more: jax.Array | None) -> jax.Array:
    return x if more is None else x + more


def _products(Q: int, K: int, V: int) -> Products:
    return products(1, Q, K, V)


def products(levels: int, Q: int, K: int, V: int) -> Products:
    """Those of a rule that makes its scores of so many products."""
    pairs, state = levels * Q * Q * K, Q * K * V
    return Products(pairs, Q * Q * V + state, state, Q * Q * V, pairs + state, pairs + Q * Q * V + 3 * state)


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
