"""Decays between the tokens of a chunk, one per key, as products of factors of which none exceeds one.

exp(log_a[j + 1] + ... + log_a[i]) cannot be split at the start of a chunk: the factor of j would be exp of minus a sum,
which overflows where a decay is strong. A chunk is halved again and again instead. Two tokens i > j of one block that
are in different halves of it are compared at the border between the halves: what decays from there to i is a factor of
the query, and what decays from j to there is one of the key. Both are at most one, and for all pairs with that border
the scores are one product of matrices. Every pair is apart at exactly one of the log2(Q) levels. All sums of log decays
are made of terms of one sign and end at a border, so that nothing cancels, in their gradients neither.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Swap = Callable[[jax.Array, int], jax.Array]


class Sums(NamedTuple):
    """Sums of log decays [Q, K]: from the border of a level to a token or from the token to it; and of whole chunks.

    until: up to the token, with its own unless it is read `before`, here and in levels. after: of the tokens after it.
    whole: of all, at every token.
    """

    levels: tuple[jax.Array, ...]
    until: jax.Array
    after: jax.Array
    whole: jax.Array


def right(shape: tuple[int, ...], half: int) -> jax.Array:
    """Which tokens are in the right half of their block of two times `half` tokens."""
    return jax.lax.broadcasted_iota(jnp.int32, shape, 0) & half != 0


def sums(log_a: jax.Array, swap: Swap, before: bool) -> Sums:
    """From log decays [Q, K], Q a power of two; swap(x, half) exchanges the halves of each block of 2 half tokens.

    before: what is read is the state before the update, which a token's own decay is not in.
    """
    nothing = jnp.zeros_like(log_a)
    levels, until, after, whole = [], nothing if before else log_a, nothing, log_a
    half = 1
    while half < log_a.shape[0]:
        late, other = right(log_a.shape, half), swap(whole, half)
        levels.append(jnp.where(late, until, after))
        until, after = until + jnp.where(late, other, 0), after + jnp.where(late, 0, other)
        whole, half = whole + other, 2 * half
    return Sums(tuple(levels), until, after, whole)


def sums_back(d: Sums, swap: Swap, before: bool) -> jax.Array:
    """The gradient of log decays from those of their sums."""
    until, after, whole = d.until, d.after, d.whole
    half = until.shape[0] // 2
    for level in reversed(d.levels):
        late = right(until.shape, half)
        whole = whole + swap(whole + jnp.where(late, until, after), half)
        until, after = until + jnp.where(late, level, 0), after + jnp.where(late, 0, level)
        half //= 2
    return whole if before else until + whole


def apart(size: int, level: int) -> jax.Array:
    """Which pairs of tokens [Q, Q] are in different halves of one block of that level."""
    difference = jax.lax.broadcasted_iota(jnp.int32, (size, size), 0)
    difference ^= jax.lax.broadcasted_iota(jnp.int32, (size, size), 1)
    return (difference >= 1 << level) & (difference < 2 << level)
