"""Blocks of attention with composed heads on a TPU: what a program holds of each array, and the pairs of a tile.

Queries lie along sublanes and keys along lanes. A token on the query side is [B, planes, T, H or 1], on the key side
[B, planes, H or 1, S]; weights are [planes, H or 1, 1, 1] or [H, H].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from kernels.blocks_tpu import Refs
from kernels.composed_tiles import Band, Mix, Sides, batched, mixed
from kernels.tiles import Arrays, array

MEMORY = 48 << 20  # bytes of vector memory for a program, of 64 MiB and more (16 MiB on a v4)
LOWEST = -1e30  # a score that is not seen: -inf would make nan of a query that has seen nothing yet
Place = Callable[..., tuple[jax.Array | int, ...]]


class Problem(NamedTuple):
    """What the kernels are made for: compositions, the factor of scores, tiles, the precision of pairs."""

    before: Mix | None
    after: Mix | None
    scale: float
    band: Band
    acc: jnp.dtype
    interpret: bool


class Operands(NamedTuple):
    """Queries, keys, values [B, H, T or S, dim], the lowest key that a query sees [1 or B, T, 1]; tokens; weights."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    low: jax.Array
    qs: Arrays
    ks: Arrays
    ws: Arrays


class Specs(NamedTuple):
    """Blocks of those arrays, of an output, and of statistics of the softmax [B, T, H]."""

    q: pl.BlockSpec
    k: pl.BlockSpec
    v: pl.BlockSpec
    low: pl.BlockSpec
    qs: tuple[pl.BlockSpec, ...]
    ks: tuple[pl.BlockSpec, ...]
    ws: tuple[pl.BlockSpec, ...]
    y: pl.BlockSpec
    sums: pl.BlockSpec

    def operands(self) -> list[pl.BlockSpec | tuple[pl.BlockSpec, ...]]:
        """Those of `Operands`."""
        return list(self[:7])


def specs(x: Operands, band: Band, row: Place, column: Place) -> Specs:
    """row, column: from the place in the grid, which begins with the sequence, which queries and which keys."""
    heads, rows, columns, shared = x.q.shape[1], band.queries, band.keys, x.low.shape[0] == 1

    def along(size: int, dim: int, place: Place) -> pl.BlockSpec:
        return pl.BlockSpec((1, heads, size, dim), lambda b, *at: (b, 0, place(*at), 0))

    def whole(z: jax.Array) -> pl.BlockSpec:
        return pl.BlockSpec(z.shape, lambda *at: (0,) * z.ndim)

    def queries(z: jax.Array) -> pl.BlockSpec:
        return pl.BlockSpec((1, z.shape[1], rows, z.shape[3]), lambda b, *at: (b, 0, row(*at), 0))

    def keys(z: jax.Array) -> pl.BlockSpec:
        return pl.BlockSpec((1, *z.shape[1:3], columns), lambda b, *at: (b, 0, 0, column(*at)))

    return Specs(
        q=along(rows, x.q.shape[3], row),
        k=along(columns, x.k.shape[3], column),
        v=along(columns, x.v.shape[3], column),
        low=pl.BlockSpec((1, rows, 1), lambda b, *at: (0 if shared else b, row(*at), 0)),
        qs=tuple(map(queries, x.qs)),
        ks=tuple(map(keys, x.ks)),
        ws=tuple(map(whole, x.ws)),
        y=along(rows, x.v.shape[3], row),
        sums=pl.BlockSpec((1, rows, heads), lambda b, *at: (b, row(*at), 0)),
    )


class Tile(NamedTuple):
    """A tile of pairs: scores [H, BQ, BK], which of them are seen [1, BQ, BK], what compositions read."""

    scores: jax.Array
    seen: jax.Array
    before: Sides
    after: Sides

    def weights(self, problem: Problem, lse: jax.Array) -> jax.Array:
        """Those of the softmax, from the log of its sums [H, BQ, 1]."""
        return jnp.where(self.seen, jnp.exp(mixed(problem.before, self.scores, self.before) - lse), 0)


def tile(problem: Problem, x: Operands, row: jax.Array, column: jax.Array) -> Tile:
    """The tile at this row and column of which x are the blocks."""
    band, acc = problem.band, problem.acc
    shape = (band.queries, band.keys)
    query = problem.band.past + row * band.queries + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    key = column * band.keys + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    seen = (key <= query) & (key >= x.low[0])
    scores = batched(x.q[0], x.k[0], 2, 2).astype(acc) * problem.scale
    before, after = (_sides(mix, *refs, acc) for mix, refs in split(problem, x.qs, x.ks, x.ws))
    return Tile(scores, seen[None], before, after)


def split(problem: Problem, qs: Refs, ks: Refs, ws: Refs) -> tuple[tuple[Mix | None, tuple[Refs, Refs, Refs]], ...]:
    """Both compositions with their own of what belongs to tokens on either side, and to weights."""
    mix = problem.before
    i, j, n = (0, 0, 0) if mix is None else (mix.sides.count("q"), mix.sides.count("k"), len(mix.shapes))
    return (mix, (qs[:i], ks[:j], ws[:n])), (problem.after, (qs[i:], ks[j:], ws[n:]))


def _sides(mix: Mix | None, qs: Refs, ks: Refs, ws: Refs, acc: jnp.dtype) -> Sides:
    shapes = "" if mix is None else mix.shapes
    return Sides(
        queries=tuple(column_of(z[0, p].astype(acc)) for z in qs for p in range(z.shape[1])),
        keys=tuple(z[0, p].astype(acc)[:, None] for z in ks for p in range(z.shape[1])),
        weights=tuple(
            plane
            for z, shape in zip(ws, shapes, strict=True)
            for plane in ((z[p] for p in range(z.shape[0])) if shape == "p" else (z[...],))
        ),
    )


def column_of(x: jax.Array) -> jax.Array:
    """Of a statistic or plane [BQ, H], [H, BQ, 1]."""
    return x.T[:, :, None]


def lanes_of(x: jax.Array) -> jax.Array:
    """Back."""
    return x[:, :, 0].T


def add_queries(refs: Refs, d: Arrays) -> None:
    """Adds gradients of planes [H or 1, BQ, 1] to those of tokens on the query side."""
    planes = iter(d)
    for z in refs:
        for p in range(z.shape[1]):
            z[0, p] += lanes_of(next(planes))


def add_keys(refs: Refs, d: Arrays) -> None:
    """Adds gradients of planes [H or 1, 1, BK] to those of tokens on the key side."""
    planes = iter(d)
    for z in refs:
        for p in range(z.shape[1]):
            z[0, p] += next(planes)[:, 0]


def add_weights(mix: Mix | None, refs: Refs, d: Arrays) -> None:
    """Adds gradients of planes [H or 1, 1, 1] and of matrices to those of weights."""
    planes = iter(d)
    for z, shape in zip(refs, "" if mix is None else mix.shapes, strict=True):
        if shape == "m":
            z[0] += next(planes)
        else:
            for p in range(z.shape[1]):
                z[0, p] += next(planes)


class Work(NamedTuple):
    """How often a pass does something for a tile: products over dims and values, compositions, exponentials."""

    dims: int
    values: int
    before: int
    after: int
    before_back: int
    after_back: int
    exponentials: int


def cost(problem: Problem, x: Operands, work: Work, moved: int) -> pl.CostEstimate:
    """The work of all tiles, with the bytes read and written once; blocks of tiles are read again for each tile."""
    band, heads = problem.band, x.q.shape[1]
    pairs, tiles = heads * band.queries * band.keys, x.q.shape[0] * band.tiles()
    flops = 2 * pairs * (work.dims * x.q.shape[3] + work.values * x.v.shape[3])
    a = array((heads, band.queries, band.keys), problem.acc)
    counts = ((work.before, work.before_back), (work.after, work.after_back))
    for (mix, arrays), (there, back) in zip(split(problem, x.qs, x.ks, x.ws), counts, strict=True):
        if mix is not None:
            sides = _shapes(mix, *arrays, band, problem.acc)
            flops += there * pl.estimate_cost(mix.mix, a, *sides).flops
            flops += back * pl.estimate_cost(mix.grad, a, *sides, a).flops
    again = sum(z.dtype.itemsize * band.keys * heads * z.shape[3] for z in (x.k, x.v))
    return pl.CostEstimate(
        flops=tiles * flops, transcendentals=tiles * pairs * work.exponentials, bytes_accessed=moved + tiles * again
    )


def _shapes(mix: Mix, qs: Arrays, ks: Arrays, ws: Arrays, band: Band, acc: jnp.dtype) -> Sides:
    """Of the planes of a tile."""
    return Sides(
        queries=tuple(array((z.shape[3], band.queries, 1), acc) for z in qs for _ in range(z.shape[1])),
        keys=tuple(array((z.shape[2], 1, band.keys), acc) for z in ks for _ in range(z.shape[1])),
        weights=tuple(
            array(z.shape if shape == "m" else z.shape[1:], acc)
            for z, shape in zip(ws, mix.shapes, strict=True)
            for _ in range(1 if shape == "m" else z.shape[0])
        ),
    )
