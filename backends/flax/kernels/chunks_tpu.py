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

    Operands x [B, heads that share them, T filled up, V or K] or, of heads, [B, heads, chunks, 1, Q]; w [heads, 1, V, K
    or 1]; handed like x of keys; S [B, heads, K, V]. half: the precision of products.
    """

    rule: Rule
    gates: Gates
    half: jnp.dtype
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
            out_specs=[specs.token_out("values"), specs.state, specs.states],
            out_shape=[array(v.shape, v.dtype), array(o.S.shape, o.S.dtype), states],
            scratch_shapes=[specs.carry],
            compiler_params=ORDER,
            cost_estimate=specs.cost(traffic(*o.x, *o.w, *o.handed, v, starts, o.S, o.S, states), "forward"),
            interpret=self.interpret,
            name=self.rule.name,
        )(o.x, o.w, o.handed, starts, o.S)
        return (y, last), kept

    def backward(self, starts: jax.Array, o: Operands, states: jax.Array, gradients: Arrays) -> Operands:
        """The gradients of the operands."""
        specs, (do, dlast) = _Specs(self, starts, o, reverse=True), gradients
        x, handed = (tuple(array((*do.shape[:2], *z.shape[2:]), z.dtype) for z in each) for each in (o.x, o.handed))
        w = tuple(array((do.shape[0], *z.shape), z.dtype) for z in o.w)
        moved = traffic(*o.x, *x, *o.w, *w, *o.handed, *handed, starts, states, do, dlast, dlast)
        dx, dw, dhanded, dS = pl.pallas_call(
            specs.walk.backward,
            grid=specs.grid,
            in_specs=[*specs.operands(specs.states), specs.token_out("values"), specs.state],
            out_specs=[
                tuple(map(specs.token_out, self.gates.x_sides)),
                tuple(map(specs.weight_out, self.gates.w_sides)),
                tuple(specs.token_out("keys") for _ in handed),
                specs.state,
            ],
            out_shape=[x, w, handed, array(dlast.shape, dlast.dtype)],
            scratch_shapes=[specs.carry],
            compiler_params=ORDER,
            cost_estimate=specs.cost(moved, "backward"),
            interpret=self.interpret,
            name=f"{self.rule.name}_gradient",
        )(o.x, o.w, o.handed, starts, states, do, dlast)
        return Operands(
            x=tuple(of_sharers(d, z, 1) for d, z in zip(dx, o.x, strict=True)),
            w=tuple(d.sum(0) for d in dw),
            handed=tuple(of_sharers(d, z, 1) for d, z in zip(dhanded, o.handed, strict=True)),
            S=dS,
        )


class _Specs:
    """Blocks of the arrays of a chunked scan, and its grid: batch, heads, chunks."""

    def __init__(self, passes: ChunksTpu, starts: jax.Array, o: Operands, reverse: bool = False) -> None:
        (batch, count, _, size), (heads, key, value) = starts.shape, o.S.shape[1:]
        self.passes, self.given, self.sizes, self.grid = passes, o, Sizes(size, key, value), (batch, heads, count)
        self.walk = Walk(passes.rule, passes.gates, passes.half, passes.time)
        self.reverse, at = reverse, self.at
        self.start = pl.BlockSpec((1, 1, 1, size), lambda b, h, t: (b, at(t), 0, 0))
        self.state = pl.BlockSpec((1, 1, key, value), lambda b, h, t: (b, h, 0, 0))
        self.states = pl.BlockSpec((1, 1, 1, key, value), lambda b, h, t: (b, h, at(t), 0, 0))
        self.carry = pltpu.VMEM((key, value), o.S.dtype)

    def at(self, t: jax.Array) -> jax.Array:
        """The chunk of a step."""
        return self.grid[2] - 1 - t if self.reverse else t

    def token(self, side: Side, sharers: int) -> pl.BlockSpec:
        """Of an input that so many heads share."""

        def own(h: jax.Array) -> jax.Array:
            return jax.lax.div(h, jax.lax.full_like(h, sharers))  # h // sharers asks what chip it will run on

        if side == "head":
            return pl.BlockSpec((1, 1, 1, 1, self.sizes.tokens), lambda b, h, t: (b, own(h), self.at(t), 0, 0))
        across = self.sizes.across(side)
        return pl.BlockSpec((1, 1, self.sizes.tokens, across), lambda b, h, t: (b, own(h), self.at(t), 0))

    def token_out(self, side: Side) -> pl.BlockSpec:
        """Of what every head has of its own: a result, or a gradient."""
        return self.token(side, 1)

    def weight(self, side: Side) -> pl.BlockSpec:
        """Of a weight."""
        return pl.BlockSpec((1, 1, self.sizes.across(side)), lambda b, h, t: (h, 0, 0))

    def weight_out(self, side: Side) -> pl.BlockSpec:
        """Of the gradient of a weight in a sequence."""
        return pl.BlockSpec((1, 1, 1, self.sizes.across(side)), lambda b, h, t: (b, h, 0, 0))

    def operands(self, state: pl.BlockSpec) -> list[object]:
        """Of inputs, weights, keys and queries, starts, and the state or the states of all chunks."""
        gates, given = self.passes.gates, self.given
        x = zip(gates.x_sides, given.x, strict=True)
        return [
            tuple(self.token(side, self._sharers(z)) for side, z in x),
            tuple(map(self.weight, gates.w_sides)),
            tuple(self.token("keys", self._sharers(z)) for z in given.handed),
            self.start,
            state,
        ]

    def _sharers(self, z: jax.Array) -> int:
        """How many heads have one row of an input between them."""
        return self.grid[1] // z.shape[1]

    def cost(self, moved: int, part: Part) -> pl.CostEstimate:
        """That of all chunks, with the bytes read and written."""
        batch, heads, count = self.grid
        return cost(self.passes.rule, self.passes.gates, self.sizes, batch * heads * count, moved, part)


def over_chunks(
    passes: ChunksTpu,
    size: int,
    x: Arrays,
    w: Arrays,
    handed: Arrays,
    pos: jax.Array,
    S: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """What the equations make of y [B, T, G, H, V], in the dtype of x[0], and the last S, in chunks of `size` tokens.

    x [B, T, G, H, V, K or 1] by their sides, w [G, H, V, K or 1], handed [B, T, G, H, K], pos [B, T], S [B, G, H, K, V]
    of the token before; x but for x[0] and handed may have 1 for H, or for G and H.
    """
    (batch, time, groups, heads, _), gates = x[0].shape, passes.gates
    more = -time % size

    def by_head(z: jax.Array, fill: str = "constant") -> jax.Array:
        z = jnp.pad(z, [(0, 0), (0, more), *[(0, 0)] * (z.ndim - 2)], mode=fill)
        return jnp.moveaxis(z, 1, 3).reshape(batch, -1, time + more, z.shape[-1])

    def token(side: Side, z: jax.Array) -> jax.Array:
        if side == "head":  # along lanes: a column would fill 127 more in memory
            return by_head(z.astype(S.dtype), "edge").reshape(batch, z.shape[2] * z.shape[3], -1, 1, size)
        return by_head(z, "edge")

    operands = Operands(
        x=tuple(map(token, gates.x_sides, x)),
        w=tuple(z.reshape(-1, 1, z.shape[-1]).astype(S.dtype) for z in w),
        handed=tuple(map(by_head, handed)),
        S=S.reshape(batch, -1, *S.shape[3:]),
    )
    y, last = run(passes, document_starts(pos, size).reshape(batch, -1, 1, size), operands)
    y = jnp.moveaxis(y[:, :, :time].reshape(batch, groups, heads, time, -1), 3, 1)
    return y, last.reshape(S.shape)
