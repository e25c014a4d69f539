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
from kernels.composed_tiles import Band, Composed, Mix, Operands, Shape, Sides, Work, batched, mixed, split
from kernels.tiles import Arrays, array

MEMORY = 48 << 20  # bytes of vector memory for a program, of 64 MiB and more (16 MiB on a v4)
LOWEST = -1e30  # a score that is not seen: -inf would make nan of a query that has seen nothing yet
Place = Callable[..., tuple[jax.Array | int, ...]]


class Problem(NamedTuple):
    """What the kernels are made for: compositions, the factor of scores, tiles, the precision of pairs."""

    composed: Composed
    scale: float
    band: Band
    acc: jnp.dtype
    interpret: bool


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
        return jnp.where(self.seen, jnp.exp(mixed(problem.composed.before, self.scores, self.before) - lse), 0)


def tile(problem: Problem, x: Operands, row: jax.Array, column: jax.Array) -> Tile:
    """The tile at this row and column of which x are the blocks."""
    band, acc = problem.band, problem.acc
    shape = (band.queries, band.keys)
    query = problem.band.past + row * band.queries + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    key = column * band.keys + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    seen = (key <= query) & (key >= x.low[0])
    scores = batched(x.q[0], x.k[0], 2, 2).astype(acc) * problem.scale
    before, after = (_sides(mix, refs, acc) for mix, refs in split(problem.composed, x.qs, x.ks, x.ws))
    return Tile(scores, seen[None], before, after)


def _sides(mix: Mix | None, refs: tuple[Refs, Refs, Refs], acc: jnp.dtype) -> Sides:
    qs, ks, ws = refs
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


def cost(problem: Problem, x: Operands, work: Work, moved: int) -> pl.CostEstimate:
    """The work of all tiles, with the bytes read and written once; blocks of tiles are read again for each tile."""
    band, heads = problem.band, x.q.shape[1]
    tiles = x.q.shape[0] * band.tiles()
    planes = Shape(tuple((z.shape[1], z.shape[3]) for z in x.qs), tuple((z.shape[1], z.shape[2]) for z in x.ks), x.ws)
    a = array((heads, band.queries, band.keys), problem.acc)
    flops, exponentials = work.cost(problem.composed, planes, a, (x.q.shape[3], x.v.shape[3]))
    again = sum(z.dtype.itemsize * band.keys * heads * z.shape[3] for z in (x.k, x.v))
    return pl.CostEstimate(
        flops=tiles * flops, transcendentals=tiles * exponentials, bytes_accessed=moved + tiles * again
    )
