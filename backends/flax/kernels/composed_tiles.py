"""Attention with composed heads in tiles: what it is given, which tiles there are, what is done with one, at what cost.

A tile has the pairs of some queries and keys, of all heads, [H, BQ, BK], in single precision. Tokens and weights that
compositions read are cut along their axes before heads into planes that broadcast against it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from kernels.tiles import Arrays, array, estimated

Planes = TypeVar("Planes", bound=tuple[object, ...])


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


class Operands(NamedTuple):
    """What a machine's kernels are given, in layouts of its own: queries, keys, values; the lowest key that each query
    sees; tokens on either side; weights.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    low: jax.Array
    qs: Arrays
    ks: Arrays
    ws: Arrays


def read(composed: Composed, tokens: Arrays, weights: Arrays, acc: jnp.dtype) -> tuple[Arrays, Arrays, Arrays]:
    """What compositions read, as planes: tokens on either side [B, T or S, planes, H or 1]; weights in precision `acc`.

    A weight is planes [planes, H or 1, 1, 1] or a matrix [H, H].
    """
    sides = [side for mix in composed if mix is not None for side in mix.sides]
    shapes = [shape for mix in composed if mix is not None for shape in mix.shapes]
    planes = [z.reshape(*z.shape[:2], math.prod(z.shape[2:-1]), z.shape[-1]) for z in tokens]
    queries, keys = (tuple(z for z, at in zip(planes, sides, strict=True) if at == side) for side in "qk")
    held = (z if shape == "m" else z.reshape(-1, z.shape[-1], 1, 1) for z, shape in zip(weights, shapes, strict=True))
    return queries, keys, tuple(z.astype(acc) for z in held)


def lowest(pos: jax.Array, past: int, behind: int | None) -> jax.Array:
    """The lowest key that each query at pos [T] or [B, T] sees, int32: one behind itself if it sees none."""
    back = pos if behind is None else jnp.minimum(pos, behind)
    return (past + jnp.arange(pos.shape[-1]) - back).astype(jnp.int32)


def split(
    composed: Composed, qs: Planes, ks: Planes, ws: Planes
) -> tuple[tuple[Mix | None, tuple[Planes, Planes, Planes]], tuple[Mix | None, tuple[Planes, Planes, Planes]]]:
    """Both compositions with their own of what belongs to tokens on either side, and to weights."""
    mix = composed.before
    i, j, n = (0, 0, 0) if mix is None else (mix.sides.count("q"), mix.sides.count("k"), len(mix.shapes))
    return (mix, (qs[:i], ks[:j], ws[:n])), (composed.after, (qs[i:], ks[j:], ws[n:]))  # type: ignore[return-value]


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


def summed(s: jax.Array, seen: jax.Array, top: jax.Array, total: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest score of each query [H, BQ, 1] and the sum of exponentials below it, with those of a tile added."""
    most = jnp.maximum(top, jnp.max(s, 2, keepdims=True))
    found = jnp.sum(jnp.where(seen, jnp.exp(s - most), 0), 2, keepdims=True)
    return most, jnp.exp(top - most) * total + found


def logarithm(top: jax.Array, total: jax.Array, none: float) -> jax.Array:
    """Of the sum of exponentials that `summed` found; `none` for a query without keys."""
    empty = total == 0
    return jnp.where(empty, none, top + jnp.log(jnp.where(empty, 1, total)))


def batched(x: jax.Array, y: jax.Array, i: int, j: int) -> jax.Array:
    """For each head the product of matrices over axis i of x and j of y, summed in at least single precision."""
    precision = None if x.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST
    acc = jnp.promote_types(x.dtype, jnp.float32)
    return jax.lax.dot_general(x, y, (((i,), (j,)), ((0,), (0,))), precision=precision, preferred_element_type=acc)


class Shape(NamedTuple):
    """Of tokens on either side how many planes, and heads or 1; weights."""

    queries: tuple[tuple[int, int], ...]
    keys: tuple[tuple[int, int], ...]
    weights: Arrays


class Cost(NamedTuple):
    """Operations, and exponentials."""

    flops: int
    exponentials: int


class Work(NamedTuple):
    """How often a pass does something for a tile: products over dims and values, compositions, exponentials."""

    dims: int
    values: int
    before: int
    after: int
    before_back: int
    after_back: int
    exponentials: int

    def cost(self, composed: Composed, planes: Shape, a: jax.ShapeDtypeStruct, sizes: tuple[int, int]) -> Cost:
        """Of a tile of pairs a [H, BQ, BK]; planes: of what compositions read; sizes: of a head of keys and values."""
        flops = 2 * a.size * (self.dims * sizes[0] + self.values * sizes[1])
        counts = (self.before, self.before_back), (self.after, self.after_back)
        for (mix, own), (there, back) in zip(split(composed, *planes), counts, strict=True):
            if mix is not None:
                given = sides_of(mix, Shape(*own), a)
                flops += there * estimated(mix.mix, a, *given).flops
                flops += back * estimated(mix.grad, a, *given, a).flops
        return Cost(flops, a.size * self.exponentials)


def sides_of(mix: Mix, planes: Shape, a: jax.ShapeDtypeStruct) -> Sides:
    """The shapes of what a composition reads in a tile."""
    _, queries, keys = a.shape
    return Sides(
        queries=tuple(array((heads, queries, 1), a.dtype) for count, heads in planes.queries for _ in range(count)),
        keys=tuple(array((heads, 1, keys), a.dtype) for count, heads in planes.keys for _ in range(count)),
        weights=tuple(
            array(z.shape if shape == "m" else z.shape[1:], a.dtype)
            for z, shape in zip(planes.weights, mix.shapes, strict=True)
            for _ in range(1 if shape == "m" else z.shape[0])
        ),
    )
