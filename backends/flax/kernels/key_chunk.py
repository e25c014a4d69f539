"""One chunk of a linear recurrence with one decay per key, on the values that a kernel of any machine has of it.

Q tokens, keys [Q, K], values [Q, V], state [K, V], log decays [Q, K] (Yang et al. 2023, arXiv:2312.06635, section 4).
Decays between tokens are split at the borders of halves (`halves`): a product of matrices a level.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from kernels.chunk import Documents, Gradients, Rule, dot
from kernels.halves import Sums, Swap, apart, sums, sums_back


class Moves(NamedTuple):
    """How a machine turns tiles: halves of blocks of tokens, a row [1, K] to a column [K, 1], and sums to a row.

    sum_to_row: the sums over values of [K, V], as [1, K].
    """

    swap: Swap
    column: Callable[[jax.Array], jax.Array]
    sum_to_row: Callable[[jax.Array], jax.Array]


def rule(moves: Moves) -> Rule:
    """That of a machine."""
    return Rule(
        name="chunked_key_scan",
        forward=functools.partial(_forward, moves),
        backward=functools.partial(_backward, moves),
        products=_products,
        exponentials=lambda Q, K: Q * K * (Q.bit_length() + 1),
    )


class _Decays(NamedTuple):
    """Of each level [Q, K], from the state before to a token, from it to the state after [Q, K]; of the state [1, K].

    Which pairs of tokens are of one document [Q, Q].
    """

    levels: tuple[jax.Array, ...]
    inward: jax.Array
    outward: jax.Array
    kept: jax.Array
    pairs: jax.Array


def _decays(moves: Moves, logs: jax.Array, documents: Documents) -> _Decays:
    found = sums(logs, moves.swap)
    return _Decays(
        levels=tuple(map(jnp.exp, found.levels)),
        inward=jnp.where(documents.inward, jnp.exp(found.until), 0),
        outward=jnp.where(documents.outward, jnp.exp(found.after), 0),
        kept=jnp.where(documents.kept, jnp.exp(jnp.sum(logs, 0, keepdims=True)), 0),
        pairs=documents.pairs,
    )


def _scores(c: _Decays, k: jax.Array, q: jax.Array, half: jnp.dtype) -> jax.Array:
    """The sums over keys of q[i] k[j] and the decay between them [Q, Q]; zero where i does not see j."""
    size = k.shape[0]
    found = jnp.where(_same(size), jnp.sum(q * k, 1, keepdims=True), 0)
    for level, decay in enumerate(c.levels):
        between = dot((q * decay).astype(half), (k * decay).astype(half), 1, 1)
        found = jnp.where(c.pairs & apart(size, level), between, found)
    return found


def _scores_back(
    c: _Decays, k: jax.Array, q: jax.Array, dscores: jax.Array, half: jnp.dtype
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]:
    """The gradients of keys, queries, and the sums of log decays of each level."""
    size, d_levels = k.shape[0], []
    itself = jnp.sum(jnp.where(_same(size), dscores, 0), 1, keepdims=True)
    dk, dq = itself * q, itself * k
    for level, decay in enumerate(c.levels):
        d = jnp.where(c.pairs & apart(size, level), dscores, 0).astype(half)
        queries, keys = (q * decay).astype(half), (k * decay).astype(half)
        d_queries, d_keys = dot(d, keys, 1, 0), dot(d, queries, 0, 0)
        dq, dk = dq + d_queries * decay, dk + d_keys * decay
        d_levels.append(queries * d_queries + keys * d_keys)  # a token is one or the other
    return dk, dq, tuple(d_levels)


def _same(size: int) -> jax.Array:
    row = jax.lax.broadcasted_iota(jnp.int32, (size, size), 0)
    return row == jax.lax.broadcasted_iota(jnp.int32, (size, size), 1)


def _forward(
    moves: Moves,
    logs: jax.Array,
    documents: Documents,
    S: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    c, half, k, q = _decays(moves, logs, documents), k.dtype, k.astype(S.dtype), q.astype(S.dtype)
    v = v.astype(half)
    y = dot(_scores(c, k, q, half).astype(half), v, 1, 0)
    y += dot((q * c.inward).astype(half), S.astype(half), 1, 0)
    return y, moves.column(c.kept) * S + dot((k * c.outward).astype(half), v, 0, 0)


def _backward(
    moves: Moves,
    logs: jax.Array,
    documents: Documents,
    S: jax.Array,
    dS: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q: jax.Array,
    dy: jax.Array,
) -> Gradients:
    c, half, k, q = _decays(moves, logs, documents), k.dtype, k.astype(S.dtype), q.astype(S.dtype)
    v, dy = v.astype(half), dy.astype(half)
    dk, dq, d_levels = _scores_back(c, k, q, dot(dy, v, 1, 1), half)
    entering, leaving = q * c.inward, k * c.outward
    from_state, to_state = dot(dy, S.astype(half), 1, 1), dot(v, dS.astype(half), 1, 1)
    dv = dot(_scores(c, k, q, half).astype(half), dy, 0, 0) + dot(leaving.astype(half), dS.astype(half), 1, 0)
    first = jax.lax.broadcasted_iota(jnp.int32, logs.shape, 0) == 0
    whole = jnp.where(first, c.kept * moves.sum_to_row(dS * S), 0)
    return Gradients(
        decays=sums_back(Sums(d_levels, entering * from_state, leaving * to_state, whole), moves.swap),
        k=dk + c.outward * to_state,
        v=dv,
        q=dq + c.inward * from_state,
        S=moves.column(c.kept) * dS + dot(entering.astype(half), dy, 0, 0),
    )


def _products(Q: int, K: int, V: int) -> tuple[int, int]:
    levels = Q.bit_length() - 1
    return Q * (Q * (levels * K + V) + 2 * K * V), Q * (Q * (3 * levels * K + 2 * V) + 4 * K * V)
