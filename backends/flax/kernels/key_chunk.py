"""One chunk of a linear recurrence with one decay per key, on the values that a kernel of any machine has of it.

Q tokens, keys [Q, K], values [Q, V], state [K, V], log decays [Q, K] (Yang et al. 2023, arXiv:2312.06635, section 4).
Decays between tokens are split at the borders of halves (`halves`): a product of matrices a level.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from kernels.chunk import Column, Documents, Gradients, Rule, again, dot, square
from kernels.halves import Sums, Swap, apart, sums, sums_back


class Moves(NamedTuple):
    """How a machine turns tiles: halves of blocks of tokens, a row [1, K] to a column [K, 1], and sums to a row.

    sum_to_row: the sums over values of [K, V], as [1, K].
    """

    swap: Swap
    column: Column
    sum_to_row: Callable[[jax.Array], jax.Array]


def key_rule(moves: Moves) -> Rule:
    """That of a machine."""
    return Rule(
        name="chunked_key_scan",
        per_key=True,
        meet=functools.partial(_meet, moves),
        read=_read,
        carry=functools.partial(_carry, moves),
        back=functools.partial(_back, moves),
        products=_products,
        exponentials=lambda Q, K: Q * K * (Q.bit_length() + 1),
    )


class _Met(NamedTuple):
    """Decays and scores between the tokens of a chunk.

    Decays of each level [Q, K], from the state before to a token, from it to the state after [Q, K], of the state
    [1, K]; which pairs of tokens are of one document [Q, Q]; scores [Q, Q], zero where one does not see the other; keys
    and queries [Q, K] as the decays are, and the type of operands.
    """

    levels: tuple[jax.Array, ...]
    inward: jax.Array
    outward: jax.Array
    kept: jax.Array
    pairs: jax.Array
    scores: jax.Array
    k: jax.Array
    q: jax.Array
    half: jnp.dtype


def _meet(moves: Moves, logs: jax.Array, documents: Documents, k: jax.Array, q: jax.Array) -> _Met:
    found, half = sums(logs, moves.swap), k.dtype
    levels = tuple(map(jnp.exp, found.levels))
    k, q = k.astype(logs.dtype), q.astype(logs.dtype)
    return _Met(
        levels=levels,
        inward=jnp.where(documents.inward, jnp.exp(found.until), 0),
        outward=jnp.where(documents.outward, jnp.exp(found.after), 0),
        kept=jnp.where(documents.kept, jnp.exp(jnp.sum(logs, 0, keepdims=True)), 0),
        pairs=documents.pairs,
        scores=_scores(levels, documents.pairs, k, q, half),
        k=k,
        q=q,
        half=half,
    )


def _scores(levels: tuple[jax.Array, ...], pairs: jax.Array, k: jax.Array, q: jax.Array, half: jnp.dtype) -> jax.Array:
    """The sums over keys of q[i] k[j] and the decay between them [Q, Q]; zero where i does not see j."""
    size = k.shape[0]
    found = jnp.where(_same(size), jnp.sum(q * k, 1, keepdims=True), 0)
    for level, decay in enumerate(levels):
        between = dot((q * decay).astype(half), (k * decay).astype(half), 1, 1)
        found = jnp.where(pairs & apart(size, level), between, found)
    return found


def _scores_back(met: _Met, dscores: jax.Array) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]:
    """The gradients of keys, queries, and the sums of log decays of each level."""
    size, k, q, half, d_levels = met.k.shape[0], met.k, met.q, met.half, []
    itself = jnp.sum(jnp.where(_same(size), dscores, 0), 1, keepdims=True)
    dk, dq = itself * q, itself * k
    for level, decay in enumerate(met.levels):
        d = jnp.where(met.pairs & apart(size, level), dscores, 0).astype(half)
        queries, keys = (q * decay).astype(half), (k * decay).astype(half)
        d_queries, d_keys = dot(d, keys, 1, 0), dot(d, queries, 0, 0)
        dq, dk = dq + d_queries * decay, dk + d_keys * decay
        d_levels.append(queries * d_queries + keys * d_keys)  # a token is one or the other
    return dk, dq, tuple(d_levels)


def _same(size: int) -> jax.Array:
    here, other = square(size)
    return here == other


def _read(met: _Met, S: jax.Array, v: jax.Array) -> jax.Array:
    y = dot(met.scores.astype(met.half), v.astype(met.half), 1, 0)
    return y + dot((met.q * met.inward).astype(met.half), S.astype(met.half), 1, 0)


def _carry(moves: Moves, met: _Met, S: jax.Array, v: jax.Array) -> jax.Array:
    return moves.column(met.kept) * S + dot((met.k * met.outward).astype(met.half), v.astype(met.half), 0, 0)


def _back(moves: Moves, met: _Met, S: jax.Array, dS: jax.Array, v: jax.Array, dy: jax.Array) -> Gradients:
    half = met.half
    v, dy = v.astype(half), dy.astype(half)
    dk, dq, d_levels = _scores_back(met, dot(dy, v, 1, 1))
    entering, leaving = met.q * met.inward, met.k * met.outward
    from_state, to_state = dot(dy, S.astype(half), 1, 1), dot(v, dS.astype(half), 1, 1)
    dv = dot(met.scores.astype(half), dy, 0, 0) + dot(leaving.astype(half), dS.astype(half), 1, 0)
    first = jax.lax.broadcasted_iota(jnp.int32, leaving.shape, 0) == 0
    whole = jnp.where(first, met.kept * moves.sum_to_row(dS * S), 0)
    return Gradients(
        logs=sums_back(Sums(d_levels, entering * from_state, leaving * to_state, whole), moves.swap),
        k=dk + met.outward * to_state,
        v=dv,
        q=dq + met.inward * from_state,
        S=moves.column(met.kept) * dS + dot(entering.astype(half), dy, 0, 0),
    )


def _products(Q: int, K: int, V: int) -> tuple[int, int, int]:
    levels = Q.bit_length() - 1
    backward = Q * (Q * (3 * levels * K + 2 * V) + 4 * K * V)
    return Q * (Q * (levels * K + V) + 2 * K * V), backward, again(Q, K, V)
