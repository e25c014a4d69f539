"""Chunked scans on a GPU, through Pallas and Triton: the calls of the kernels that walk the chunks of a head.

A program has a slice of the values of a head and its state [K, slice] in registers. The forward pass writes the state
before each chunk for the backward pass, which walks the chunks in reverse; every slice computes the equations that it
needs, and gradients of what slices share are summed over them.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from kernels.blocks_gpu import power
from kernels.chunk import Rule, document_starts, of_sharers
from kernels.chunk_gates import Operands, Part, Sizes, cost, reads_again
from kernels.chunk_sizes import WIDE, values_of_program
from kernels.chunks_walk_gpu import Walk
from kernels.passes import run
from kernels.tiles import Arrays, Gates, Side, array, traffic, up

LEAST = 16  # rows and columns of a product


@dataclass(frozen=True)
class ChunksGpu:
    """The passes over chunks of `size` tokens: operands x [B, T, heads that share them, V or K] or [B, T, heads], w
    [heads, V or K] or [heads], handed like x of keys, S [B, heads, K, V]; places [B, T filled up]. half: the precision
    of products.
    """

    rule: Rule
    gates: Gates
    half: jnp.dtype
    interpret: bool
    size: int

    def forward(self, starts: jax.Array, o: Operands) -> tuple[Arrays, jax.Array]:
        """What the equations make of y [B, T, heads, V], the last S; S before every chunk [B, heads, chunks, K, V]."""
        specs = _Specs(self, starts, o)
        v, states = o.x[0], array((*o.S.shape[:2], specs.count, *o.S.shape[2:]), o.S.dtype)
        y, last, kept = pl.pallas_call(
            specs.walk.forward,
            grid=specs.grid,
            in_specs=[*specs.operands(), specs.state],
            out_specs=[specs.token_out("values"), specs.state, specs.states],
            out_shape=[array(v.shape, v.dtype), array(o.S.shape, o.S.dtype), states],
            compiler_params=specs.warps,
            cost_estimate=specs.cost(traffic(*o.x, *o.w, *o.handed, v, starts, o.S, o.S, states), "forward"),
            interpret=self.interpret,
            name=self.rule.name,
        )(o.x, o.w, o.handed, starts, o.S)
        return (y, last), kept

    def backward(self, starts: jax.Array, o: Operands, states: jax.Array, gradients: Arrays) -> Operands:
        """The gradients of the operands."""
        specs, (do, dlast) = _Specs(self, starts, o), gradients
        acc, slices, batch = dlast.dtype, specs.slices, do.shape[0]
        weights = zip(self.gates.w_sides, o.w, strict=True)
        x = tuple(specs.gradient(side, z.dtype) for side, z in zip(self.gates.x_sides, o.x, strict=True))
        w = tuple(array((batch, *z.shape) if s == "values" else (slices, batch, *z.shape), acc) for s, z in weights)
        dq, share, reads = self._queries(starts, o, states, do)
        keys = tuple(specs.gradient("keys", z.dtype) for z in o.handed[:1])
        again = () if keys else (dq,)
        more = do, dlast, dlast, share, *again, *reads
        moved = traffic(*o.x, *x, *o.w, *w, *o.handed, *keys, starts, states, *more)
        dx, dw, dkeys, dS = pl.pallas_call(
            specs.walk.backward,
            grid=specs.grid,
            in_specs=[
                *specs.operands(),
                *(specs.states, specs.token_out("values"), specs.state, specs.token_out(self.rule.side)),
                tuple(specs.token_out("keys") for _ in again),
                tuple(specs.token_out("values") for _ in reads),
            ],
            out_specs=[
                tuple(map(specs.token_out, self.gates.x_sides)),
                tuple(map(specs.weight_out, self.gates.w_sides)),
                tuple(specs.token_out("keys") for _ in keys),
                specs.state,
            ],
            out_shape=[x, w, keys, array(dlast.shape, acc)],
            compiler_params=specs.warps,
            cost_estimate=specs.cost(moved, "keys"),
            interpret=self.interpret,
            name=f"{self.rule.name}_gradient",
        )(o.x, o.w, o.handed, starts, states, do, dlast, share, again, reads)
        return Operands(
            x=tuple(map(_over_programs, dx, o.x)),
            w=tuple(d.sum(tuple(range(d.ndim - z.ndim))) for d, z in zip(dw, o.w, strict=True)),
            handed=tuple(map(_over_programs, (*dkeys, dq), o.handed)),
            S=dS,
        )

    def _queries(
        self, starts: jax.Array, o: Operands, states: jax.Array, do: jax.Array
    ) -> tuple[jax.Array, jax.Array, Arrays]:
        """The gradient of the queries, their share in that of log decays, and what was read out, if that is wanted."""
        specs, acc = _Specs(self, starts, o), states.dtype
        dq, share = specs.gradient("keys", o.handed[1].dtype if o.handed else acc), specs.gradient(self.rule.side, acc)
        reads = tuple(array(do.shape, do.dtype) for _ in range(reads_again(self.gates, specs.walk.tile)))
        moved = traffic(*o.x, *o.w, *o.handed, starts, states, do, dq, share, *reads)
        found: tuple[jax.Array, jax.Array, Arrays] = pl.pallas_call(
            specs.walk.queries,
            grid=(*specs.grid, specs.count),
            in_specs=[*_in_all_chunks(specs.operands()), specs.one_state, *_in_all_chunks([specs.token_out("values")])],
            out_specs=_in_all_chunks(
                [
                    specs.token_out("keys"),
                    specs.token_out(self.rule.side),
                    tuple(specs.token_out("values") for _ in reads),
                ]
            ),
            out_shape=[dq, share, reads],
            compiler_params=specs.warps,
            cost_estimate=specs.cost(moved, "queries"),
            interpret=self.interpret,
            name=f"{self.rule.name}_gradient_of_queries",
        )(o.x, o.w, o.handed, starts, states, do)
        return found


def _over_programs(d: jax.Array, z: jax.Array) -> jax.Array:
    """The gradient of an input, over slices of the values and heads that share it."""
    return of_sharers(d.sum(0) if d.ndim > z.ndim else d, z, 2)


class _Specs:
    """What a program sees of the arrays of a chunked scan: all of a head. The grid is batch, heads, slices."""

    def __init__(self, passes: ChunksGpu, starts: jax.Array, o: Operands) -> None:
        (batch, time), (heads, key, value) = o.x[0].shape[:2], o.S.shape[1:]
        tile = Sizes(passes.size, power(key, LEAST), power(min(value, values_of_program(key)), LEAST))
        self.passes, self.given, self.sizes = passes, o, Sizes(time, key, value)
        self.walk = Walk(passes.rule, passes.gates, passes.half, self.sizes, tile)
        self.slices, self.count = up(value, tile.values) // tile.values, starts.shape[1] // passes.size
        self.grid = (batch, heads, self.slices)
        self.start = pl.BlockSpec((None, starts.shape[1]), lambda b, h, s: (b, 0))
        self.state = pl.BlockSpec((None, None, key, value), lambda b, h, s: (b, h, 0, 0))
        self.states = pl.BlockSpec((None, None, self.count, key, value), lambda b, h, s: (b, h, 0, 0, 0))
        self.one_state = pl.BlockSpec((None, None, None, key, value), lambda b, h, s, n: (b, h, n, 0, 0))
        self.warps = plgpu.CompilerParams(num_warps=4 if tile.keys <= WIDE else 8, num_stages=1)

    def token(self, side: Side, sharers: int) -> pl.BlockSpec:
        """Of an input that so many heads share."""

        def own(h: jax.Array) -> jax.Array:
            return jax.lax.div(h, jax.lax.full_like(h, sharers))

        if side == "head":
            return pl.BlockSpec((None, self.sizes.tokens, None), lambda b, h, s: (b, 0, own(h)))
        across = self.sizes.across(side)
        return pl.BlockSpec((None, self.sizes.tokens, None, across), lambda b, h, s: (b, 0, own(h), 0))

    def token_out(self, side: Side) -> pl.BlockSpec:
        """Of what every head has of its own, a result or a gradient: slices share all that has no values."""
        if side == "values":
            return self.token(side, 1)
        if side == "head":
            return pl.BlockSpec((None, None, self.sizes.tokens, None), lambda b, h, s: (s, b, 0, h))
        return pl.BlockSpec((None, None, self.sizes.tokens, None, self.sizes.keys), lambda b, h, s: (s, b, 0, h, 0))

    def gradient(self, side: Side, dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
        """Where programs leave the gradient of an input of this type: sums of shares are in that of the state."""
        batch, heads, slices = self.grid
        shape = (batch, self.sizes.tokens, heads, *(() if side == "head" else (self.sizes.across(side),)))
        if side == "values":
            return array(shape, dtype)
        return array((slices, *shape), dtype if slices == 1 else self.given.S.dtype)

    def weight(self, side: Side) -> pl.BlockSpec:
        """Of a weight."""
        if side == "head":
            return pl.BlockSpec((1,), lambda b, h, s: (h,))
        return pl.BlockSpec((None, self.sizes.across(side)), lambda b, h, s: (h, 0))

    def weight_out(self, side: Side) -> pl.BlockSpec:
        """Of the gradient of a weight in a sequence."""
        if side == "head":
            return pl.BlockSpec((None, None, 1), lambda b, h, s: (s, b, h))
        if side == "keys":
            return pl.BlockSpec((None, None, None, self.sizes.keys), lambda b, h, s: (s, b, h, 0))
        return pl.BlockSpec((None, None, self.sizes.values), lambda b, h, s: (b, h, 0))

    def operands(self) -> list[object]:
        """Of inputs, weights, keys and queries, and starts."""
        gates, given, heads = self.passes.gates, self.given, self.grid[1]
        x = zip(gates.x_sides, given.x, strict=True)
        return [
            tuple(self.token(side, heads // z.shape[2]) for side, z in x),
            tuple(map(self.weight, gates.w_sides)),
            tuple(self.token("keys", heads // z.shape[2]) for z in given.handed),
            self.start,
        ]

    def cost(self, moved: int, part: Part) -> pl.CostEstimate:
        """That of all chunks, with the bytes read and written."""
        batch, heads, slices = self.grid
        chunks = batch * heads * slices * self.count
        return cost(self.passes.rule, self.passes.gates, self.walk.tile, chunks, moved, part)


def _in_all_chunks(specs: list[object]) -> list[object]:
    """The same in a grid that has chunks as well."""

    def one(spec: pl.BlockSpec) -> pl.BlockSpec:
        place = spec.index_map
        assert place is not None
        return pl.BlockSpec(spec.block_shape, lambda b, h, s, n: place(b, h, s))

    return jax.tree.map(one, specs, is_leaf=lambda spec: isinstance(spec, pl.BlockSpec))


def over_chunks(
    passes: ChunksGpu, x: Arrays, w: Arrays, handed: Arrays, pos: jax.Array, S: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What the equations make of y [B, T, G, H, V], in the dtype of x[0], and the last S.

    x [B, T, G, H, V, K or 1] by their sides, w [G, H, V, K or 1], handed [B, T, G, H, K], pos [B, T], S [B, G, H, K, V]
    of the token before; x but for x[0] and handed may have 1 for H, or for G and H. There are at most MOST keys.
    """
    gates, shape = passes.gates, x[0].shape

    def by_head(side: Side, z: jax.Array) -> jax.Array:
        whole = z.reshape(*z.shape[:-3], -1, z.shape[-1])
        return whole[..., 0] if side == "head" else whole

    operands = Operands(
        x=tuple(map(by_head, gates.x_sides, x)),
        w=tuple(by_head(side, z).astype(S.dtype) for side, z in zip(gates.w_sides, w, strict=True)),
        handed=tuple(by_head("keys", z) for z in handed),
        S=S.reshape(S.shape[0], -1, *S.shape[3:]),
    )
    y, last = run(passes, document_starts(pos, passes.size), operands)
    return y.reshape(shape), last.reshape(S.shape)
