"""Chunked scans on a TPU: their arrays by head and chunk, and the calls of the kernels that compute a chunk.

A program walks the chunks of a head in order, with the state in vector memory. The forward pass writes the state before
each chunk for the backward pass, which walks the chunks in reverse.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from kernels.blocks_tpu import ORDER
from kernels.chunk import Rule, document_starts, of_sharers
from kernels.chunk_gates import Operands, Part, Sizes, cost
from kernels.chunks_walk_tpu import Walk
from kernels.passes import run
from kernels.tiles import Arrays, Gates, Side, array, traffic


@dataclass(frozen=True)
class ChunksTpu:
    """The passes over chunks of so many tokens as starts [B, chunks, 1, Q] have, for `time` tokens.

    Operands x [B, heads, T filled up, V or K] or, of heads, [B, heads, chunks, 1, Q]; w [heads, 1, V, K or 1]; k, q
    [B, heads that share them, T filled up, K]; S [B, heads, K, V].
    """

    rule: Rule
    gates: Gates
    interpret: bool
    time: int

    def forward(self, starts: jax.Array, o: Operands) -> tuple[Arrays, jax.Array]:
        """What the equations make of y [B, heads, T filled up, V] and the last S; S before every chunk [B, heads,
        chunks, K, V].
        """
        specs = _Specs(self, starts, o)
        v, states = o.x[0], array((*specs.grid, *o.S.shape[2:]), o.S.dtype)
        y, last, kept = pl.pallas_call(
            specs.walk.forward,
            grid=specs.grid,
            in_specs=specs.operands(specs.state),
            out_specs=[specs.token("values"), specs.state, specs.states],
            out_shape=[array(v.shape, v.dtype), array(o.S.shape, o.S.dtype), states],
            scratch_shapes=[specs.carry],
            compiler_params=ORDER,
            cost_estimate=specs.cost(traffic(*o.x, *o.w, o.k, o.q, v, starts, o.S, o.S, states), "forward"),
            interpret=self.interpret,
            name=self.rule.name,
        )(o.x, o.w, o.k, o.q, starts, o.S)
        return (y, last), kept

    def backward(self, starts: jax.Array, o: Operands, states: jax.Array, gradients: Arrays) -> Operands:
        """The gradients of the operands."""
        specs, (do, dlast) = _Specs(self, starts, o, reverse=True), gradients
        x = tuple(array(z.shape, z.dtype) for z in o.x)
        w = tuple(array((do.shape[0], *z.shape), z.dtype) for z in o.w)
        k, q = (array((*do.shape[:2], *z.shape[2:]), z.dtype) for z in (o.k, o.q))
        moved = traffic(*o.x, *x, *o.w, *w, o.k, o.q, k, q, starts, states, do, dlast, dlast)
        dx, dw, dk, dq, dS = pl.pallas_call(
            specs.walk.backward,
            grid=specs.grid,
            in_specs=[*specs.operands(specs.states), specs.token("values"), specs.state],
            out_specs=[
                tuple(map(specs.token, self.gates.x_sides)),
                tuple(map(specs.weight_out, self.gates.w_sides)),
                *(specs.key_out, specs.key_out, specs.state),
            ],
            out_shape=[x, w, k, q, array(dlast.shape, dlast.dtype)],
            scratch_shapes=[specs.carry],
            compiler_params=ORDER,
            cost_estimate=specs.cost(moved, "backward"),
            interpret=self.interpret,
            name=f"{self.rule.name}_gradient",
        )(o.x, o.w, o.k, o.q, starts, states, do, dlast)
        return Operands(dx, tuple(d.sum(0) for d in dw), of_sharers(dk, o.k, 1), of_sharers(dq, o.q, 1), dS)


class _Specs:
    """Blocks of the arrays of a chunked scan, and its grid: batch, heads, chunks."""

    def __init__(self, passes: ChunksTpu, starts: jax.Array, o: Operands, reverse: bool = False) -> None:
        (batch, count, _, size), (heads, key, value) = starts.shape, o.S.shape[1:]
        self.passes, self.sizes, self.grid = passes, Sizes(size, key, value), (batch, heads, count)
        self.walk = Walk(passes.rule, passes.gates, passes.time)
        self.reverse, at = reverse, self.at
        self.key, self.query = (self._shared(heads // z.shape[1]) for z in (o.k, o.q))
        self.key_out = pl.BlockSpec((1, 1, size, key), lambda b, h, t: (b, h, at(t), 0))
        self.start = pl.BlockSpec((1, 1, 1, size), lambda b, h, t: (b, at(t), 0, 0))
        self.state = pl.BlockSpec((1, 1, key, value), lambda b, h, t: (b, h, 0, 0))
        self.states = pl.BlockSpec((1, 1, 1, key, value), lambda b, h, t: (b, h, at(t), 0, 0))
        self.carry = pltpu.VMEM((key, value), o.S.dtype)

    def at(self, t: jax.Array) -> jax.Array:
        """The chunk of a step."""
        return self.grid[2] - 1 - t if self.reverse else t

    def _shared(self, heads: int) -> pl.BlockSpec:
        """Of keys or queries that so many heads share."""

        def place(b: jax.Array, h: jax.Array, t: jax.Array) -> tuple[jax.Array | int, ...]:
            shared = jax.lax.div(h, jax.lax.full_like(h, heads))  # h // heads asks what chip it will run on
            return b, shared, self.at(t), 0

        return pl.BlockSpec((1, 1, self.sizes.tokens, self.sizes.keys), place)

    def token(self, side: Side) -> pl.BlockSpec:
        """Of an input and of its gradient."""
        if side == "head":
            return pl.BlockSpec((1, 1, 1, 1, self.sizes.tokens), lambda b, h, t: (b, h, self.at(t), 0, 0))
        across = self.sizes.across(side)
        return pl.BlockSpec((1, 1, self.sizes.tokens, across), lambda b, h, t: (b, h, self.at(t), 0))

    def weight(self, side: Side) -> pl.BlockSpec:
        """Of a weight."""
        return pl.BlockSpec((1, 1, self.sizes.across(side)), lambda b, h, t: (h, 0, 0))

    def weight_out(self, side: Side) -> pl.BlockSpec:
        """Of the gradient of a weight in a sequence."""
        return pl.BlockSpec((1, 1, 1, self.sizes.across(side)), lambda b, h, t: (b, h, 0, 0))

    def operands(self, state: pl.BlockSpec) -> list[object]:
        """Of inputs, weights, keys, queries, starts, and the state or the states of all chunks."""
        gates = self.passes.gates
        x, w = tuple(map(self.token, gates.x_sides)), tuple(map(self.weight, gates.w_sides))
        return [x, w, self.key, self.query, self.start, state]

    def cost(self, moved: int, part: Part) -> pl.CostEstimate:
        """That of all chunks, with the bytes read and written."""
        batch, heads, count = self.grid
        return cost(self.passes.rule, self.passes.gates, self.sizes, batch * heads * count, moved, part)


def over_chunks(
    passes: ChunksTpu,
    size: int,
    x: Arrays,
    w: Arrays,
    k: jax.Array,
    q: jax.Array,
    pos: jax.Array,
    S: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """What the equations make of y [B, T, G, H, V], in the dtype of x[0], and the last S, in chunks of `size` tokens.

    x [B, T, G, H, V, K or 1] by their sides, w [G, H, V, K or 1], k, q [B, T, G, H or 1, K], pos [B, T], S [B, G, H,
    K, V] of the token before.
    """
    (batch, time, groups, heads, _), gates = x[0].shape, passes.gates
    more = -time % size

    def by_head(z: jax.Array, fill: str = "constant") -> jax.Array:
        z = jnp.pad(z, [(0, 0), (0, more), *[(0, 0)] * (z.ndim - 2)], mode=fill)
        return jnp.moveaxis(z, 1, 3).reshape(batch, -1, time + more, z.shape[-1])

    def token(side: Side, z: jax.Array) -> jax.Array:
        if side == "head":  # along lanes: a column would fill 127 more in memory
            return by_head(z.astype(S.dtype), "edge").reshape(batch, groups * heads, -1, 1, size)
        return by_head(z, "edge")

    operands = Operands(
        x=tuple(map(token, gates.x_sides, x)),
        w=tuple(z.reshape(-1, 1, z.shape[-1]).astype(S.dtype) for z in w),
        k=by_head(k),
        q=by_head(q),
        S=S.reshape(batch, -1, *S.shape[3:]),
    )
    y, last = run(passes, document_starts(pos, size).reshape(batch, -1, 1, size), operands)
    y = jnp.moveaxis(y[:, :, :time].reshape(batch, groups, heads, time, -1), 3, 1)
    return y, last.reshape(S.shape)
