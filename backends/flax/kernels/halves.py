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
from kernels.chunk import square

Swap = Callable[[jax.Array, int], jax.Array]


class Sums(NamedTuple):
    """Sums of log decays [Q, K] in the blocks of a level: up to a token in its block, with its own unless what is read
    is the state `before`; of the tokens after it; of the whole block, at every token of it.
    """

    until: jax.Array
    after: jax.Array
    whole: jax.Array


def levels_of(size: int) -> int:
    """How often a chunk of so many tokens, a power of two, is halved; level 0 has blocks of two tokens."""
    return size.bit_length() - 1


def right(shape: tuple[int, ...], half: int) -> jax.Array:
    """Which tokens are in the right half of their block of two times `half` tokens."""
    return jax.lax.broadcasted_iota(jnp.int32, shape, 0) & half != 0


def of_tokens(log_a: jax.Array, before: bool) -> Sums:
    """Those in blocks of one token; log_a [Q, K].

    before: what is read is the state before the update, which a token's own decay is not in.
    """
    nothing = jnp.zeros_like(log_a)
    return Sums(nothing if before else log_a, nothing, log_a)


def widened(held: Sums, swap: Swap, level: int) -> tuple[jax.Array, Sums]:
    """The sums [Q, K] between the border of a level and a token, and those in its blocks from those in their halves.

    swap(x, half) exchanges the halves of each block of 2 half tokens.
    """
    half = 1 << level
    late, other = right(held.whole.shape, half), swap(held.whole, half)
    wide = Sums(
        until=held.until + jnp.where(late, other, 0),
        after=held.after + jnp.where(late, 0, other),
        whole=held.whole + other,
    )
    return jnp.where(late, held.until, held.after), wide


def widened_back(d: Sums, border: jax.Array, swap: Swap, level: int) -> Sums:
    """The gradients of the sums in halves, from those of the sums in blocks and from the border of a level."""
    half = 1 << level
    late = right(border.shape, half)
    return Sums(
        until=d.until + jnp.where(late, border, 0),
        after=d.after + jnp.where(late, 0, border),
        whole=d.whole + swap(d.whole + jnp.where(late, d.until, d.after), half),
    )


def of_tokens_back(d: Sums, before: bool) -> jax.Array:
    """The gradient of log decays."""
    return d.whole if before else d.until + d.whole


def parted(pairs: jax.Array) -> jax.Array:
    """Of pairs of tokens [Q, Q], the bits in which their places differ, or none for those that `pairs` leaves out.

    It depends on where documents start, so that no compiler holds a mask for each level around a loop over chunks.
    """
    here, other = square(pairs.shape[0])
    return jnp.where(pairs, here ^ other, 0)


def apart(bits: jax.Array, level: int) -> jax.Array:
    """Which of the pairs are in different halves of one block of that level."""
    return (bits >= 1 << level) & (bits < 2 << level)
