"""One chunk of a linear recurrence with one decay per key, on the values that a kernel of any machine has of it.

Q tokens, keys [Q, K], values [Q, V], state [V, K], log decays [Q, K] (Yang et al. 2023, arXiv:2312.06635, section 4).
Decays between tokens are split at the borders of halves (`halves`): a product of matrices a level.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from kernels.chunk import Documents, Gradients, Keys, Products, Rule, dot, products, square
from kernels.halves import Sums, Swap, apart, levels_of, of_tokens, of_tokens_back, parted, widened, widened_back


def key_rule(swap: Swap, *, before: bool) -> Rule:
    """That of a machine that exchanges halves of blocks of tokens like this; before: what is read is the state before
    the update.
    """
    return Rule(
        name="chunked_key_scan",
        side="keys",
        meet=functools.partial(_meet, swap, before),
        read=_read,
        carry=_carry,
        pull=_pull,
        back_queries=functools.partial(_back_queries, swap, before),
        fade=lambda S, dS: jnp.sum(dS * S, 0, keepdims=True),
        back_keys=functools.partial(_back_keys, swap, before),
        products=_products,
        exponentials=lambda Q, K: Q * K * (Q.bit_length() + 1),
    )


class _Met(NamedTuple):
    """Decays and scores between the tokens of a chunk.

    Decays of each level [Q, K], from the state before to a token, from it to the state after [Q, K], of the state
    [1, K]; how pairs of tokens of one document are `parted` [Q, Q]; scores [Q, Q], zero where one does not see the
    other; keys and queries [Q, K] as the decays are, those of a bonus, what the query of a token meets of the token
    itself, keys and bonus or nothing, and the type of operands.
    """

    levels: tuple[jax.Array, ...]
    inward: jax.Array
    outward: jax.Array
    kept: jax.Array
    bits: jax.Array
    scores: jax.Array
    k: jax.Array
    q: jax.Array
    bonus: jax.Array | None
    own: jax.Array | None
    half: jnp.dtype


def _meet(swap: Swap, before: bool, logs: jax.Array, documents: Documents, keys: Keys) -> _Met:
    """Level by level, so that what a level takes need not be held for the next."""
    held, (k, q, half, bonus) = of_tokens(logs, before), keys
    own = bonus if before else k if bonus is None else k + bonus
    levels, scores, bits = [], _of_own(q, own), parted(documents.pairs)
    for level in range(levels_of(logs.shape[0])):
        border, held = widened(held, swap, level)
        decay = jnp.exp(border)
        between = dot((q * decay).astype(half), (k * decay).astype(half), 1, 1)
        scores = jnp.where(apart(bits, level), between, scores)
        levels.append(decay)
    return _Met(
        levels=tuple(levels),
        inward=jnp.where(documents.inward, jnp.exp(held.until), 0),
        outward=jnp.where(documents.outward, jnp.exp(held.after), 0),
        kept=jnp.where(documents.kept, jnp.exp(jnp.sum(logs, 0, keepdims=True)), 0),
        bits=bits,
        scores=scores,
        k=k,
        q=q,
        bonus=bonus,
        own=own,
        half=half,
    )


def _of_own(q: jax.Array, own: jax.Array | None) -> jax.Array:
    """The scores [Q, Q] of tokens with themselves, the sums over keys of q[i] own[i]; zero elsewhere."""
    size = q.shape[0]
    if own is None:
        return jnp.zeros((size, size), q.dtype)
    return jnp.where(_same(size), jnp.sum(q * own, 1, keepdims=True), 0)


def _same(size: int) -> jax.Array:
    here, other = square(size)
    return here == other


def _read(met: _Met, S: jax.Array, v: jax.Array) -> jax.Array:
    y = dot(met.scores.astype(met.half), v.astype(met.half), 1, 0)
    return y + dot((met.q * met.inward).astype(met.half), S.astype(met.half), 1, 1)


def _carry(met: _Met, S: jax.Array, v: jax.Array) -> jax.Array:
    return met.kept * S + dot(v.astype(met.half), (met.k * met.outward).astype(met.half), 0, 0)


def _pull(met: _Met, v: jax.Array, dy: jax.Array) -> jax.Array:
    return dot(dy.astype(met.half), v.astype(met.half), 1, 1)


def _back_queries(
    swap: Swap, before: bool, met: _Met, dscores: jax.Array, S: jax.Array, dy: jax.Array, y: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The share [Q, K] is a part of the gradient of the log decays."""
    k, q, half = met.k, met.q, met.half
    from_state = dot(dy.astype(half), S.astype(half), 1, 0)
    dq, nothing = met.inward * from_state, jnp.zeros_like(from_state)
    d = Sums(until=q * dq, after=nothing, whole=nothing)
    if met.own is not None:
        dq = dq + _diagonal(dscores) * met.own
    for level, decay in reversed(list(enumerate(met.levels))):
        between = dot(_between(met, dscores, level), (k * decay).astype(half), 1, 0)
        dq = dq + between * decay
        d = widened_back(d, (q * decay).astype(half) * between, swap, level)
    return dq, of_tokens_back(d, before)


def _back_keys(
    swap: Swap,
    before: bool,
    met: _Met,
    dscores: jax.Array,
    fade: jax.Array,
    dS: jax.Array,
    v: jax.Array,
    dy: jax.Array,
    share: jax.Array,
) -> Gradients:
    """What the state needs comes first, so that only keys and queries are held for the levels."""
    k, q, half = met.k, met.q, met.half
    v, dy, late = v.astype(half), dy.astype(half), dS.astype(half)
    leaving = k * met.outward
    dv = dot(met.scores.astype(half), dy, 0, 0) + dot(leaving.astype(half), late, 1, 1)
    to_state = dot(v, late, 1, 0)
    before_chunk = met.kept * dS + dot(dy, (q * met.inward).astype(half), 0, 0)
    dk, own = met.outward * to_state, _diagonal(dscores) * q
    first = jax.lax.broadcasted_iota(jnp.int32, leaving.shape, 0) == 0
    d = Sums(until=jnp.zeros_like(dk), after=leaving * to_state, whole=jnp.where(first, met.kept * fade, 0))
    if not before:
        dk = dk + own
    for level, decay in reversed(list(enumerate(met.levels))):
        between = dot(_between(met, dscores, level), (q * decay).astype(half), 0, 0)
        dk = dk + between * decay
        d = widened_back(d, (k * decay).astype(half) * between, swap, level)
    return Gradients(
        logs=share + of_tokens_back(d, before),
        k=dk,
        v=dv,
        S=before_chunk,
        bonus=None if met.bonus is None else own,
    )


def _diagonal(dscores: jax.Array) -> jax.Array:
    """The gradient of the score of a token with itself [Q, 1]."""
    return jnp.sum(jnp.where(_same(dscores.shape[0]), dscores, 0), 1, keepdims=True)


def _between(met: _Met, dscores: jax.Array, level: int) -> jax.Array:
    """The gradients of the scores whose tokens are apart at a level; a token is in the later half or in the other."""
    return jnp.where(apart(met.bits, level), dscores, 0).astype(met.half)


def _products(Q: int, K: int, V: int) -> Products:
    return products(levels_of(Q), Q, K, V)
