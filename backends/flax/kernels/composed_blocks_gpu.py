"""Blocks of attention with composed heads on a GPU: pairs of all heads in memory of a program's own, part by part.

Triton multiplies two matrices at a time through Pallas, never those of several heads at once. So a program lays out the
pairs of a block of queries and a block of keys head by head, in memory that it has for itself, [H, block, block], and
goes over them in parts small enough for its registers with all heads together. What some of its threads have written
others read, after a barrier. Tokens are [T or S, planes, H or 1]; queries, keys, values [T or S, H, dim].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from kernels.blocks_gpu import Ref, power
from kernels.composed_memory_gpu import LEAST, at, planes, put, weights
from kernels.composed_tiles import Band, Composed, Operands, Shape, Sides, Work, mixed, split
from kernels.tiles import array, traffic, up

PART = 2048  # pairs of all heads in registers
KEYS = 16  # of a part, if there are many heads
LOWEST = -1e30  # a score that is not seen: -inf would make nan of a query that has seen nothing yet
ORDER = plgpu.CompilerParams(num_warps=8, num_stages=1)


class Problem(NamedTuple):
    """What the kernels are made for: compositions, the factor of scores, keys before the first query, queries and keys
    of a block, the precision of pairs.
    """

    composed: Composed
    scale: float
    past: int
    block: int
    acc: jnp.dtype
    interpret: bool

    def wait(self) -> None:
        """Until all threads of a program have written what others will read."""
        if not self.interpret:
            plgpu.debug_barrier()

    def filled(self, heads: int) -> int:
        """Heads of a part: a power of two, and what a product takes if there are matrices between heads."""
        matrices = any("m" in mix.shapes for mix in self.composed if mix is not None)
        return power(heads, LEAST if matrices else 1)

    def part(self, heads: int) -> tuple[int, int]:
        """Queries and keys of a part: powers of two, as many as registers hold with all heads."""
        pairs = max(KEYS, PART // self.filled(heads))
        keys = min(self.block, max(KEYS, pairs // self.block))
        return min(self.block, max(1, pairs // keys)), keys

    def parts(self, heads: int) -> tuple[int, int]:
        """Parts along the queries, and along the keys, of a block."""
        queries, keys = self.part(heads)
        return self.block // queries, self.block // keys

    def columns(self, x: Operands, t0: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The blocks of keys that queries from t0 on see: the first, and one behind the last.

        The lowest key that a query sees never falls from one query to the next.
        """
        end = jnp.minimum(self.past + t0 + self.block, x.k.shape[0])
        first = jnp.minimum(x.low[t0], end)
        return jax.lax.div(first, jnp.full_like(first, self.block)), _blocks(end, self.block)

    def rows_of(self, s0: jax.Array, end: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The blocks of queries before `end` that see keys from s0 on: the first, and one behind the last."""
        first = jnp.maximum(s0 - self.past, 0)
        return jax.lax.div(first, jnp.full_like(first, self.block)), _blocks(end, self.block)


class Part(NamedTuple):
    """The pairs of some queries and keys of a block, of all heads.

    t [1, q, 1], s [1, 1, k]: the tokens. h [H filled up, 1, 1]. at: where the pairs lie in memory; live: which heads
    there are; seen [1, q, k]: which keys a query sees.
    """

    t: jax.Array
    s: jax.Array
    h: jax.Array
    at: tuple[jax.Array, jax.Array, jax.Array]
    live: jax.Array
    seen: jax.Array
    before: Sides
    after: Sides

    def weights(self, problem: Problem, a: jax.Array, lse: jax.Array) -> jax.Array:
        """Those of the softmax, from scores and the log of its sums [H, q, 1]."""
        s = mixed(problem.composed.before, a, self.before)
        return jnp.where(self.seen & self.live, jnp.exp(s - lse), 0)

    def scores(self, problem: Problem, pairs: Ref) -> jax.Array:
        """Those of `pairs_of`."""
        return problem.scale * self.get(pairs)

    def get(self, pairs: Ref) -> jax.Array:
        """The pairs as they are in memory, [H filled up, q, k]."""
        return at(pairs, *self.at, where=self.live)

    def set(self, pairs: Ref, value: jax.Array) -> None:
        """Writes them."""
        put(pairs, value, *self.at, where=self.live)

    def of_queries(self, ref: Ref) -> jax.Array:
        """A number of every head and query, [H, q, 1] of [H, T]."""
        return at(ref, self.h, self.t, where=self.live & (self.t < ref.shape[1]))

    def set_of_queries(self, ref: Ref, value: jax.Array) -> None:
        """Writes them."""
        put(ref, value, self.h, self.t, where=self.live & (self.t < ref.shape[1]))


def part_of(problem: Problem, x: Operands, t0: jax.Array, s0: jax.Array, i: jax.Array, j: jax.Array) -> Part:
    """The part i, j of the block of queries from t0 on and keys from s0 on."""
    time, heads, _ = x.q.shape
    queries, keys = problem.part(heads)
    h = jnp.arange(problem.filled(heads), dtype=jnp.int32)[:, None, None]
    row = i * queries + jnp.arange(queries, dtype=jnp.int32)[None, :, None]
    column = j * keys + jnp.arange(keys, dtype=jnp.int32)[None, None, :]
    t, s = t0 + row, s0 + column
    low = at(x.low, t, where=t < time)
    seen = (s <= problem.past + t) & (s >= low) & (t < time)
    before, after = (
        Sides(planes(qs, t, h, problem.acc), planes(ks, s, h, problem.acc), weights(mix, ws, h))
        for mix, (qs, ks, ws) in split(problem.composed, x.qs, x.ks, x.ws)
    )
    return Part(t, s, h, (h, row, column), h < heads, seen, before, after)


def over_parts(outer: int, inner: int, visit: Callable[[jax.Array, jax.Array], None]) -> None:
    """Visits all parts of a block, so many along one axis and, one after another, along the other."""

    def some(i: jax.Array, _: None) -> None:
        jax.lax.fori_loop(0, inner, lambda j, _: visit(i, j), None)

    jax.lax.fori_loop(0, outer, some, None)


def _blocks(count: jax.Array, size: int) -> jax.Array:
    """How many blocks hold so many tokens."""
    return jax.lax.div(count + (size - 1), jnp.full_like(count, size))  # x // size asks what chip it will run on


class Specs:
    """What a program sees of arrays: all of a sequence, and pairs of a block of its own."""

    def __init__(self, problem: Problem, x: Operands) -> None:
        batch, _, heads, _ = x.q.shape
        self.problem, self.x, self.batch, self.heads = problem, x, batch, heads
        self.rows, self.columns = (up(z.shape[1], problem.block) // problem.block for z in (x.q, x.k))
        shape = (None, None, heads, problem.block, problem.block)
        self.own = pl.BlockSpec(shape, lambda b, i: (b, i, 0, 0, 0))
        self.operands = [*map(self.whole, x[:4]), *(tuple(map(self.whole, each)) for each in x[4:6])]
        self.operands += [tuple(pl.BlockSpec(z.shape, lambda b, i, n=z.ndim: (0,) * n) for z in x.ws)]

    def whole(self, z: jax.Array | jax.ShapeDtypeStruct) -> pl.BlockSpec:
        """All of a sequence."""
        return pl.BlockSpec((None, *z.shape[1:]), lambda b, i: (b, *(0,) * (z.ndim - 1)))

    def share(self, z: jax.Array | jax.ShapeDtypeStruct) -> pl.BlockSpec:
        """What a program adds to [B, programs, ...]."""
        return pl.BlockSpec((None, None, *z.shape[2:]), lambda b, i: (b, i, *(0,) * (z.ndim - 2)))

    def pairs(self, programs: int) -> jax.ShapeDtypeStruct:
        """The memory for the pairs of a block of every program."""
        shape = (self.batch, programs, self.heads, self.problem.block, self.problem.block)
        return array(shape, self.problem.acc)

    def cost(self, work: Work, *moved: jax.Array | jax.ShapeDtypeStruct) -> pl.CostEstimate:
        """The work of all blocks, with the bytes of operands, of what else is moved, and four times of pairs."""
        problem, x, block = self.problem, self.x, self.problem.block
        band = Band(self.rows, self.columns, block, block, problem.past, None)
        tiles = self.batch * band.tiles()
        planes = Shape(*(tuple(z.shape[2:] for z in each) for each in (x.qs, x.ks)), x.ws)
        a = array((self.heads, block, block), problem.acc)
        flops, exponentials = work.cost(problem.composed, planes, a, (x.q.shape[3], x.v.shape[3]))
        return pl.CostEstimate(
            flops=tiles * flops,
            transcendentals=tiles * exponentials,
            bytes_accessed=traffic(x, *moved) + tiles * 4 * traffic(a),
        )
