"""Chunked scans on a TPU: their arrays by head and chunk, and the calls of the kernels that compute a chunk.

A program walks the chunks of a head in order, with the state in vector memory. The forward pass writes the state before
each chunk for the backward pass, which walks the chunks in reverse.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from kernels.blocks_tpu import ORDER, Tree
from kernels.chunk import Rule, document_starts, of_sharers
from kernels.chunk_gates import Inputs, Operands, Part, Sizes, cost
from kernels.chunks_walk_tpu import Walk
from kernels.normalised_chunk import Read, matrix
from kernels.passes import run
from kernels.tiles import Arrays, Gates, Side, array, array_like, traffic


@dataclass(frozen=True)
class ChunksTpu:
    """The passes over chunks of so many tokens as starts [B, chunks, 1, Q] have, for `time` tokens.

    Operands x [B, heads that share them, T filled up, V or K] or, of heads, [B, heads, chunks, 1, Q]; w [heads, 1, V, K
    or 1]; handed like x of keys; S [B, heads, V, K], and of a normaliser sums [B, heads, 1, K]. half: the precision of
    products.
    """

    rule: Rule
    gates: Gates
    half: jnp.dtype
    interpret: bool
    time: int

    def forward(self, starts: jax.Array, o: Operands) -> tuple[Tree, Tree]:
        """What the equations make of y [B, heads, T filled up, V], or y and its normaliser [B, heads, chunks, 1, Q],
        and the last S; S before every chunk [B, heads, chunks, V, K].
        """
        specs, inputs = _Specs(self, starts, o), o.inputs(starts)
        states = jax.tree.map(lambda z: array((*specs.grid, *z.shape[2:]), z.dtype), o.S)
        moved = traffic(inputs, specs.result, o.S, o.S, states)
        found, last, kept = pl.pallas_call(
            specs.walk.forward,
            grid=specs.grid,
            in_specs=[specs.inputs, specs.state],
            out_specs=[specs.result_blocks, specs.state, specs.states],
            out_shape=[specs.result, jax.tree.map(array_like, o.S), states],
            scratch_shapes=[specs.carry],
            compiler_params=ORDER,
            cost_estimate=specs.cost(moved, "forward"),
            interpret=self.interpret,
            name=self.rule.name,
        )(inputs, o.S)
        return (found, last), kept

    def backward(self, starts: jax.Array, o: Operands, states: Tree, gradients: Tree) -> Operands:
        """The gradients of the operands."""
        specs, (do, dlast) = _Specs(self, starts, o, reverse=True), gradients
        inputs, heads = o.inputs(starts), specs.grid[:2]
        x, handed = (tuple(array((*heads, *z.shape[2:]), z.dtype) for z in each) for each in (o.x, o.handed))
        w = tuple(array((heads[0], *z.shape), z.dtype) for z in o.w)
        moved = traffic(inputs, x, w, handed, states, do, dlast, dlast)
        dx, dw, dhanded, dS = pl.pallas_call(
            specs.walk.backward,
            grid=specs.grid,
            in_specs=[specs.inputs, specs.states, specs.result_blocks, specs.state],
            out_specs=[
                tuple(map(specs.token_out, self.gates.x_sides)),
                tuple(map(specs.weight_out, self.gates.w_sides)),
                tuple(specs.token_out("keys") for _ in handed),
                specs.state,
            ],
            out_shape=[x, w, handed, jax.tree.map(array_like, dlast)],
            scratch_shapes=[specs.carry],
            compiler_params=ORDER,
            cost_estimate=specs.cost(moved, "backward"),
            interpret=self.interpret,
            name=f"{self.rule.name}_gradient",
        )(inputs, states, do, dlast)
        return Operands(
            x=tuple(of_sharers(d, z, 1) for d, z in zip(dx, o.x, strict=True)),
            w=tuple(d.sum(0) for d in dw),
            handed=tuple(of_sharers(d, z, 1) for d, z in zip(dhanded, o.handed, strict=True)),
            S=dS,
        )


class _Specs:
    """Blocks of the arrays of a chunked scan, and its grid: batch, heads, chunks."""

    def __init__(self, passes: ChunksTpu, starts: jax.Array, o: Operands, reverse: bool = False) -> None:
        (batch, count, _, size), (heads, value, key) = starts.shape, matrix(o.S).shape[1:]
        self.passes, self.operands, self.sizes, self.grid = passes, o, Sizes(size, key, value), (batch, heads, count)
        self.walk = Walk(passes.rule, passes.gates, passes.half, passes.time)
        self.reverse, at = reverse, self.at
        self.start = pl.BlockSpec((1, 1, 1, size), lambda b, h, t: (b, at(t), 0, 0))
        self.state = _of_state(o.S, lambda own: pl.BlockSpec((1, 1, *own), lambda b, h, t: (b, h, 0, 0)))
        self.states = _of_state(o.S, lambda own: pl.BlockSpec((1, 1, 1, *own), lambda b, h, t: (b, h, at(t), 0, 0)))
        self.carry = _of_state(o.S, lambda own: pltpu.VMEM(own, matrix(o.S).dtype))
        self.result, self.result_blocks = array_like(o.x[0]), self.token_out("values")
        if passes.gates.gives_both:
            norm = array((*self.grid, 1, size), matrix(o.S).dtype)
            self.result, self.result_blocks = Read(self.result, norm), Read(self.result_blocks, self.token_out("head"))

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

    @property
    def inputs(self) -> Inputs:
        """Of inputs, weights, keys and queries, and starts."""
        gates = self.passes.gates
        x = zip(gates.x_sides, self.operands.x, strict=True)
        return Inputs(
            x=tuple(self.token(side, self._sharers(z)) for side, z in x),
            w=tuple(map(self.weight, gates.w_sides)),
            handed=tuple(self.token("keys", self._sharers(z)) for z in self.operands.handed),
            starts=self.start,
        )

    def _sharers(self, z: jax.Array) -> int:
        """How many heads have one row of an input between them."""
        return self.grid[1] // z.shape[1]

    def cost(self, moved: int, part: Part) -> pl.CostEstimate:
        """That of all chunks, with the bytes read and written."""
        batch, heads, count = self.grid
        return cost(self.passes.rule, self.passes.gates, self.sizes, batch * heads * count, moved, part)


def _of_state(S: Tree, made: Callable[[tuple[int, ...]], Any]) -> Tree:
    """What is made of the shape of a state, [V, K], and of the sums of a normaliser, [1, K]."""
    return jax.tree.map(lambda z: made(z.shape[2:]), S)


def over_chunks(
    passes: ChunksTpu,
    size: int,
    x: Arrays,
    w: Arrays,
    handed: Arrays,
    pos: jax.Array,
    S: Tree,
) -> tuple[Tree, Tree]:
    """What the equations make of y [B, T, G, H, V], in the dtype of x[0], and the last S, in chunks of `size` tokens.

    x [B, T, G, H, V, K or 1] by their sides, w [G, H, V, K or 1], handed [B, T, G, H, K], pos [B, T], S [B, G, H, V, K]
    of the token before; x but for x[0] and handed may have 1 for H, or for G and H. With a normaliser S is a `State`
    with sums [B, G, H, K], and y, where no equation takes the normaliser, a `Read` with norm [B, T, G, H].
    """
    (batch, time, groups, heads, _), gates, exact = x[0].shape, passes.gates, matrix(S).dtype
    more = -time % size

    def by_head(z: jax.Array, fill: str = "constant") -> jax.Array:
        z = jnp.pad(z, [(0, 0), (0, more), *[(0, 0)] * (z.ndim - 2)], mode=fill)
        return jnp.moveaxis(z, 1, 3).reshape(batch, -1, time + more, z.shape[-1])

    def token(side: Side, z: jax.Array) -> jax.Array:
        if side == "head":  # along lanes: a column would fill 127 more in memory
            return by_head(z.astype(exact), "edge").reshape(batch, z.shape[2] * z.shape[3], -1, 1, size)
        return by_head(z, "edge")

    operands = Operands(
        x=tuple(map(token, gates.x_sides, x)),
        w=tuple(z.reshape(-1, 1, z.shape[-1]).astype(exact) for z in w),
        handed=tuple(map(by_head, handed)),
        S=jax.tree.map(lambda z: z.reshape(batch, groups * heads, -1, z.shape[-1]), S),
    )
    y, last = run(passes, document_starts(pos, size).reshape(batch, -1, 1, size), operands)
    y = jax.tree.map(lambda z: z.reshape(batch, groups, heads, time + more, -1)[:, :, :, :time], y)
    y = jax.tree.map(lambda z: jnp.moveaxis(z, 3, 1), y)
    y = y._replace(norm=y.norm[..., 0]) if gates.gives_both else y
    return y, jax.tree.map(lambda z, like: z.reshape(like.shape), last, S)
