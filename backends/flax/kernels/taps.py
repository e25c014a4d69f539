"""What the kernels of the causal convolution have in common on every machine, and what follows it there.

Behind the taps lie, as more rows of their weights, the bias and the weights of what follows: w [taps + 1 + n, C].
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from kernels.tiles import Arrays, accumulator, array, with_numbers_at


class Activation(NamedTuple):
    """What follows the sum that a convolution is, element by element, and its derivatives.

    x are inputs of a token, w weights of a channel; they broadcast against the sum. A kernel calls these functions on
    tiles in single precision; they hold no array of their own.

    function(total, x, w) -> o; grad(total, x, w, do) -> (dtotal, dx, dw): tuples like x and w, dw not yet summed over
    tokens. Where calls differ in numbers, w has them behind the weights (`with_numbers`), dw has not.
    """

    function: Callable[[jax.Array, Arrays, Arrays], jax.Array]
    grad: Callable[[jax.Array, Arrays, Arrays, jax.Array], tuple[jax.Array, Arrays, Arrays]]

    def with_numbers(self, numbers: tuple[float, ...]) -> "Activation":
        """What takes x and w alone, of what takes numbers as well."""
        return Activation(*(with_numbers_at(each, 2, numbers) for each in self)) if numbers else self


class Work(NamedTuple):
    """What a kernel computes in every program: what follows the sum, if anything, and how many weights that has."""

    activation: Activation | None
    weights: int
    interpret: bool

    def taps(self, w: jax.Array) -> int:
        """How many there are in the rows of weights."""
        return w.shape[0] - 1 - self.weights

    def behind(self, w: jax.Array) -> Arrays:
        """The weights [1, C] of what follows."""
        first = self.taps(w) + 1
        return tuple(w[row : row + 1, :] for row in range(first, first + self.weights))

    def result(self, total: jax.Array, x: Arrays, w: Arrays) -> jax.Array:
        """What is made of the sum."""
        return total if self.activation is None else self.activation.function(total, x, w)

    def cost(self, x: jax.Array, w: jax.Array, tokens: int, moved: int, *, back: int = 0) -> pl.CostEstimate:
        """Two operations for each tap of each element, and what follows; or of the backward pass, in which the sum is
        computed again `back` times if something does, four for each tap besides.
        """
        one, taps = array((1,), jnp.float32), self.taps(w)
        flops, transcendentals = (4 if back else 2) * taps, 0
        if self.activation is not None:
            given = one, (one,) * tokens, (one,) * self.weights
            function, last = (self.activation.grad, (one,)) if back else (self.activation.function, ())
            found = pl.estimate_cost(function, *given, *last)
            flops += max(back, 1) * found.flops + back * 2 * taps
            transcendentals = max(back, 1) * found.transcendentals
        return pl.CostEstimate(flops=flops * x.size, transcendentals=transcendentals * x.size, bytes_accessed=moved)


def rows(x: jax.Array, w: jax.Array, bias: jax.Array | None, weights: Arrays) -> jax.Array:
    """The weights [taps + 1 + n, C] of x [B, T, *axes], from w [taps, *axes], bias and n weights [*axes]."""
    behind = [jnp.zeros((), w.dtype) if bias is None else bias, *weights]
    acc = accumulator(x, w)
    more = [jnp.broadcast_to(z, x.shape[2:]).astype(acc)[None] for z in behind]
    return jnp.concatenate([w.astype(acc), *more]).reshape(w.shape[0] + len(behind), -1)


def weighted(
    taps: int, w: jax.Array, place: jax.Array, now: jax.Array, earlier: Iterable[tuple[int, jax.Array]]
) -> jax.Array:
    """The sum of taps and bias of tokens, given their inputs and, by distance, those before them."""
    total = now * w[taps - 1 : taps, :] + w[taps : taps + 1, :]
    for j, tap in earlier:
        total = total + jnp.where(place >= j, tap, 0) * w[taps - 1 - j : taps - j, :]
    return total


def before_gradient(
    work: Work, x: jax.Array, tokens: Arrays, w: jax.Array, pos: jax.Array, before: jax.Array, dy: jax.Array
) -> jax.Array:
    """That of the inputs before the first [B, taps - 1, C]: tap j of token t < j reads the one at t - j.

    x, dy, tokens [B, T, C], pos [1 or B, T].
    """
    past, taps = before.shape[1], work.taps(w)
    few = min(past, dy.shape[1])
    places, d = pos[:, :few, None], dy[:, :few].astype(w.dtype)
    if work.activation is not None:
        stream = jnp.concatenate([before, x[:, :few]], 1).astype(w.dtype)
        earlier = ((j, stream[:, past - j : past - j + few]) for j in range(1, past + 1))
        total = weighted(taps, w, places, stream[:, past:], earlier)
        given = tuple(z[:, :few].astype(w.dtype) for z in tokens)
        d, _, _ = work.activation.grad(total, given, work.behind(w), d)
    found = jnp.zeros((dy.shape[0], past, dy.shape[2]), w.dtype)
    for j in range(1, past + 1):
        count = min(j, few)
        seen = jnp.where(places[:, :count] >= j, d[:, :count] * w[past - j], 0)
        found = found.at[:, past - j : past - j + count].add(seen)
    return found.astype(before.dtype)
