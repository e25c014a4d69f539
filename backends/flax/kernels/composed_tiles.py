"""Attention with composed heads in tiles: which tiles there are, and what a kernel does with one.

A tile has the pairs of some queries and keys, of all heads, [H, BQ, BK], in single precision. Tokens and weights that
compositions read are cut along their axes before heads into planes that broadcast against it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from kernels.tiles import Arrays


class Mix(NamedTuple):
    """A composition of heads: what every pair of query and key does to its scores (or weights) of all heads.

    It is zero where its pairs are zero. sides: a letter for each token that it reads, "q" or "k", whose side it lies
    on. shapes: a letter for each weight that it reads, "p" for planes [*axes, heads or 1], "m" for a matrix from heads
    to heads.

    mix: `(a, qs, ks, ws) -> a'` on tiles in at least single precision. a: [heads, queries, keys]. Every token is cut
    along its axes before heads, row-major, into planes: qs of [heads or 1, queries, 1], ks of [heads or 1, 1, keys], ws
    of [heads or 1, 1, 1], matrices in ws as they are. In heads that only fill up a tile everything handed in is zero.
    grad: `(a, qs, ks, ws, d) -> (da, dqs, dks, dws)`, in the shapes of what came in.
    """

    sides: str
    shapes: str
    mix: Callable[[jax.Array, Arrays, Arrays, Arrays], jax.Array]
    grad: Callable[[jax.Array, Arrays, Arrays, Arrays, jax.Array], tuple[jax.Array, Arrays, Arrays, Arrays]]


class Composed(NamedTuple):
    """The compositions before and after the softmax; None: the heads as they are."""

    before: Mix | None = None
    after: Mix | None = None


class Band(NamedTuple):
    """The tiles with pairs of a query and a key that is not later and at most `behind` tokens back (None: any).

    rows, columns: tiles along queries and keys; past: keys before the first query.
    """

    rows: int
    columns: int
    queries: int
    keys: int
    past: int
    behind: int | None

    def of_row(self, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The first and the last column of these queries."""
        first = self.past + i * self.queries
        low = jnp.zeros_like(i) if self.behind is None else _part(first - self.behind, self.keys)
        return low, jnp.minimum(_part(first + self.queries - 1, self.keys), self.columns - 1)

    def of_column(self, j: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The first and the last row of these keys; the last is before the first if there is none."""
        first = j * self.keys - self.past
        end = jnp.full_like(j, self.rows - 1)
        if self.behind is not None:
            end = jnp.minimum(_part(first + self.keys - 1 + self.behind, self.queries), end)
        return _part(first, self.queries), end

    def row_steps(self) -> int:
        """No fewer columns than any row has."""
        return self.columns if self.behind is None else _touched(self.queries + self.behind, self.keys, self.columns)

    def column_steps(self) -> int:
        """No fewer rows than any column has."""
        return self.rows if self.behind is None else _touched(self.keys + self.behind, self.queries, self.rows)

    def tiles(self) -> int:
        """About how many tiles there are."""
        if self.behind is not None:
            return self.rows * self.row_steps()
        return sum((self.past + (i + 1) * self.queries - 1) // self.keys + 1 for i in range(self.rows))


def _part(x: jax.Array, size: int) -> jax.Array:
    """In which part of so many tokens x is; the first if it is before all."""
    return jax.lax.div(jnp.maximum(x, 0), jnp.full_like(x, size))  # x // size asks what chip it will run on


def _touched(span: int, size: int, most: int) -> int:
    """How many parts of `size` tokens a span of tokens can touch."""
    return min((span + size - 2) // size + 1, most)


class Sides(NamedTuple):
    """What a composition reads in a tile: planes [H or 1, BQ, 1], [H or 1, 1, BK], [H or 1, 1, 1] or matrices."""

    queries: Arrays
    keys: Arrays
    weights: Arrays


class Gradients(NamedTuple):
    """Of pairs [H, BQ, BK] and of what a composition read."""

    pairs: jax.Array
    queries: Arrays
    keys: Arrays
    weights: Arrays


def mixed(mix: Mix | None, a: jax.Array, sides: Sides) -> jax.Array:
    """The pairs as they are composed."""
    return a if mix is None else mix.mix(a, *sides)


def mixed_back(mix: Mix | None, a: jax.Array, sides: Sides, d: jax.Array) -> Gradients:
    """What a composition hands back."""
    return Gradients(d, (), (), ()) if mix is None else Gradients(*mix.grad(a, *sides, d))


def batched(x: jax.Array, y: jax.Array, i: int, j: int) -> jax.Array:
    """For each head the product of matrices over axis i of x and j of y, summed in at least single precision."""
    precision = None if x.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST
    acc = jnp.promote_types(x.dtype, jnp.float32)
    return jax.lax.dot_general(x, y, (((i,), (j,)), ((0,), (0,))), precision=precision, preferred_element_type=acc)
