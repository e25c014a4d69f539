"""Chunked scans on a GPU, through Pallas and Triton: the calls of the kernels that walk the chunks of a head.

A program has a slice of the values of a head and its state [K, slice] in registers. The forward pass writes the state
before each chunk for the backward pass, which walks the chunks in reverse; every slice computes the equations that it
needs, and gradients of what slices share are summed over them.
"""

from dataclasses import dataclass

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from kernels.blocks_gpu import power
from kernels.chunk import Rule, document_starts, of_sharers
from kernels.chunk_gates import Operands, Part, Sizes, cost, reads_again
from kernels.chunks_walk_gpu import Walk
from kernels.passes import run
from kernels.tiles import Arrays, Gates, Side, array, traffic, up

SLICE = 64  # values of a program, half as many if there are many keys
LEAST = 16  # rows and columns of a product
MOST = 256  # keys
WIDE = 64  # keys, more than which take more warps


@dataclass(frozen=True)
class ChunksGpu:
    """The passes over chunks of `size` tokens: operands x [B, T, heads, V or K] or [B, T, heads], w [heads, V or K] or
    [heads], k, q [B, T, heads that share them, K], S [B, heads, K, V]; places [B, T filled up].
    """

    rule: Rule
    gates: Gates
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
            out_specs=[specs.token("values"), specs.state, specs.states],
            out_shape=[array(v.shape, v.dtype), array(o.S.shape, o.S.dtype), states],
            compiler_params=specs.warps,
            cost_estimate=specs.cost(traffic(*o.x, *o.w, o.k, o.q, v, starts, o.S, o.S, states), "forward"),
            interpret=self.interpret,
            name=self.rule.name,
        )(o.x, o.w, o.k, o.q, starts, o.S)
        return (y, last), kept

    def backward(self, starts: jax.Array, o: Operands, states: jax.Array, gradients: Arrays) -> Operands:
        """The gradients of the operands."""
        specs, (do, dlast) = _Specs(self, starts, o), gradients
        acc, slices, batch = dlast.dtype, specs.slices, do.shape[0]
        inputs, weights = zip(self.gates.x_sides, o.x, strict=True), zip(self.gates.w_sides, o.w, strict=True)
        x = tuple(array(z.shape, z.dtype) if s == "values" else array((slices, *z.shape), acc) for s, z in inputs)
        w = tuple(array((batch, *z.shape) if s == "values" else (slices, batch, *z.shape), acc) for s, z in weights)
        dk, dq = (array((slices, *do.shape[:3], z.shape[3]), z.dtype if slices == 1 else acc) for z in (o.k, o.q))
        dq, share, reads = self._queries(starts, o, states, do, dq)
        moved = traffic(*o.x, *x, *o.w, *w, o.k, o.q, dk, starts, states, do, dlast, dlast, share, *reads)
        dx, dw, dk, dS = pl.pallas_call(
            specs.walk.backward,
            grid=specs.grid,
            in_specs=[
                *specs.operands(),
                *(specs.states, specs.token("values"), specs.state, specs.token_out(self.rule.side)),
                tuple(specs.token("values") for _ in reads),
            ],
            out_specs=[
                tuple(map(specs.token_out, self.gates.x_sides)),
                tuple(map(specs.weight_out, self.gates.w_sides)),
                *(specs.key_out, specs.state),
            ],
            out_shape=[x, w, dk, array(dlast.shape, acc)],
            compiler_params=specs.warps,
            cost_estimate=specs.cost(moved, "keys"),
            interpret=self.interpret,
            name=f"{self.rule.name}_gradient",
        )(o.x, o.w, o.k, o.q, starts, states, do, dlast, share, reads)
        return Operands(
            x=tuple(d if d.ndim == z.ndim else d.sum(0).astype(z.dtype) for d, z in zip(dx, o.x, strict=True)),
            w=tuple(d.sum(tuple(range(d.ndim - z.ndim))) for d, z in zip(dw, o.w, strict=True)),
            k=of_sharers(dk.sum(0), o.k, 2),
            q=of_sharers(dq.sum(0), o.q, 2),
            S=dS,
        )

    def _queries(
        self, starts: jax.Array, o: Operands, states: jax.Array, do: jax.Array, dq: jax.ShapeDtypeStruct
    ) -> tuple[jax.Array, jax.Array, Arrays]:
        """The gradient of the queries, their share in that of log decays, and what was read out, if that is wanted."""
        specs, acc = _Specs(self, starts, o), states.dtype
        share = array((dq.shape[:4] if self.rule.side == "head" else dq.shape), acc)
        reads = tuple(array(do.shape, do.dtype) for _ in range(reads_again(self.gates, specs.walk.tile)))
        moved = traffic(*o.x, *o.w, o.k, o.q, starts, states, do, dq, share, *reads)
        found: tuple[jax.Array, jax.Array, Arrays] = pl.pallas_call(
            specs.walk.queries,
            grid=(*specs.grid, specs.count),
            in_specs=[*_in_all_chunks(specs.operands()), specs.one_state, *_in_all_chunks([specs.token("values")])],
            out_specs=_in_all_chunks(
                [specs.key_out, specs.token_out(self.rule.side), tuple(specs.token("values") for _ in reads)]
            ),
            out_shape=[dq, share, reads],
            compiler_params=specs.warps,
            cost_estimate=specs.cost(moved, "queries"),
            interpret=self.interpret,
            name=f"{self.rule.name}_gradient_of_queries",
        )(o.x, o.w, o.k, o.q, starts, states, do)
        return found


class _Specs:
    """What a program sees of the arrays of a chunked scan: all of a head. The grid is batch, heads, slices."""

    def __init__(self, passes: ChunksGpu, starts: jax.Array, o: Operands) -> None:
        batch, time, heads, value = o.x[0].shape
        key, lanes = o.k.shape[3], SLICE if o.k.shape[3] <= WIDE else SLICE // 2
        tile = Sizes(passes.size, power(key, LEAST), power(min(value, lanes), LEAST))
        self.passes, self.sizes = passes, Sizes(time, key, value)
        self.walk = Walk(passes.rule, passes.gates, self.sizes, tile)
        self.slices, self.count = up(value, tile.values) // tile.values, starts.shape[1] // passes.size
        self.grid = (batch, heads, self.slices)
        self.key, self.query = (self._shared(heads // z.shape[2]) for z in (o.k, o.q))
        self.key_out = pl.BlockSpec((None, None, time, None, key), lambda b, h, s: (s, b, 0, h, 0))
        self.start = pl.BlockSpec((None, starts.shape[1]), lambda b, h, s: (b, 0))
        self.state = pl.BlockSpec((None, None, key, value), lambda b, h, s: (b, h, 0, 0))
        self.states = pl.BlockSpec((None, None, self.count, key, value), lambda b, h, s: (b, h, 0, 0, 0))
        self.one_state = pl.BlockSpec((None, None, None, key, value), lambda b, h, s, n: (b, h, n, 0, 0))
        self.warps = plgpu.CompilerParams(num_warps=4 if tile.keys <= WIDE else 8, num_stages=1)

    def _shared(self, heads: int) -> pl.BlockSpec:
        """Of keys or queries that so many heads share."""

        def place(b: jax.Array, h: jax.Array, s: jax.Array) -> tuple[jax.Array | int, ...]:
            return b, 0, jax.lax.div(h, jax.lax.full_like(h, heads)), 0

        return pl.BlockSpec((None, self.sizes.tokens, None, self.sizes.keys), place)

    def token(self, side: Side) -> pl.BlockSpec:
        """Of an input."""
        if side == "head":
            return pl.BlockSpec((None, self.sizes.tokens, None), lambda b, h, s: (b, 0, h))
        return pl.BlockSpec((None, self.sizes.tokens, None, self.sizes.across(side)), lambda b, h, s: (b, 0, h, 0))

    def token_out(self, side: Side) -> pl.BlockSpec:
        """Of the gradient of an input: slices share all that has no values."""
        if side == "head":
            return pl.BlockSpec((None, None, self.sizes.tokens, None), lambda b, h, s: (s, b, 0, h))
        return self.key_out if side == "keys" else self.token(side)

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
        """Of inputs, weights, keys, queries and starts."""
        gates = self.passes.gates
        x, w = tuple(map(self.token, gates.x_sides)), tuple(map(self.weight, gates.w_sides))
        return [x, w, self.key, self.query, self.start]

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
    passes: ChunksGpu, x: Arrays, w: Arrays, k: jax.Array, q: jax.Array, pos: jax.Array, S: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What the equations make of y [B, T, G, H, V], in the dtype of x[0], and the last S.

    x [B, T, G, H, V, K or 1] by their sides, w [G, H, V, K or 1], k, q [B, T, G, H or 1, K], pos [B, T], S [B, G, H,
    K, V] of the token before. There are at most MOST keys.
    """
    gates, shape = passes.gates, x[0].shape

    def by_head(side: Side, z: jax.Array) -> jax.Array:
        whole = z.reshape(*z.shape[:-3], -1, z.shape[-1])
        return whole[..., 0] if side == "head" else whole

    operands = Operands(
        x=tuple(map(by_head, gates.x_sides, x)),
        w=tuple(by_head(side, z).astype(S.dtype) for side, z in zip(gates.w_sides, w, strict=True)),
        k=k.reshape(*k.shape[:2], -1, k.shape[-1]),
        q=q.reshape(*q.shape[:2], -1, q.shape[-1]),
        S=S.reshape(S.shape[0], -1, *S.shape[3:]),
    )
    y, last = run(passes, document_starts(pos, passes.size), operands)
    return y.reshape(shape), last.reshape(S.shape)
