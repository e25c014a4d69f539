"""Chunked scans on a GPU, through Pallas and Triton: the calls of the kernels that walk the chunks of a head.

A program has a slice of the values of a head and its state [slice, K] in registers. The forward pass writes the state
before each chunk for the backward pass, which walks the chunks in reverse; every slice computes the equations that it
needs, and gradients of what slices share are summed over them.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from kernels.blocks_gpu import Tree, power
from kernels.chunk import Rule, document_starts, of_sharers
from kernels.chunk_gates import Inputs, Operands, Part, Sizes, cost, reads_again
from kernels.chunk_sizes import values_of_program
from kernels.chunks_walk_gpu import Walk
from kernels.normalised_chunk import Read, matrix
from kernels.passes import run
from kernels.tiles import Arrays, Gates, Side, array, array_like, traffic, up

LEAST = 16  # rows and columns of a product
FOUR: dict[Side, dict[Part, int]] = {
    "head": {"forward": 64, "queries": 128, "keys": 64},
    "keys": {"forward": 128, "queries": 64, "keys": 0},
}
"""Up to so many keys a program has four warps, which do the least work over again: more need the registers of eight."""


@dataclass(frozen=True)
class ChunksGpu:
    """The passes over chunks of `size` tokens: operands x [B, T, heads that share them, V or K] or [B, T, heads], w
    [heads, V or K] or [heads], handed like x of keys, S [B, heads, V, K], and with a normaliser sums [B, heads, K];
    places [B, T filled up]. half: the precision of products.
    """

    rule: Rule
    gates: Gates
    half: jnp.dtype
    interpret: bool
    size: int

    def forward(self, starts: jax.Array, o: Operands) -> tuple[Tree, Tree]:
        """What the equations make of y [B, T, heads, V], or y and its normaliser [B, T, heads], the last S; S before
        every chunk [B, heads, chunks, V, K].
        """
        specs, inputs = _Specs(self, starts, o), o.inputs(starts)
        found, last = specs.read(self.gates.gives_both), jax.tree.map(array_like, o.S)
        states = jax.tree.map(lambda z: array((*z.shape[:2], specs.count, *z.shape[2:]), z.dtype), o.S)
        moved = traffic(inputs, found, o.S, o.S, states)
        found, last, kept = pl.pallas_call(
            specs.walk.forward,
            grid=specs.grid,
            in_specs=[specs.inputs, specs.state],
            out_specs=[specs.read_out(self.gates.gives_both), specs.state, specs.states],
            out_shape=[found, last, states],
            compiler_params=specs.warps("forward"),
            cost_estimate=specs.cost(moved, "forward"),
            interpret=self.interpret,
            name=self.rule.name,
        )(inputs, o.S)
        return (found, last), kept

    def backward(self, starts: jax.Array, o: Operands, states: Tree, gradients: Tree) -> Operands:
        """The gradients of the operands."""
        specs, (do, dlast), normalised = _Specs(self, starts, o), gradients, self.gates.normalised
        inputs = o.inputs(starts)
        acc, slices, batch = specs.acc, specs.slices, specs.grid[0]
        weights = zip(self.gates.w_sides, o.w, strict=True)
        x = tuple(specs.gradient(side, z.dtype) for side, z in zip(self.gates.x_sides, o.x, strict=True))
        w = tuple(array((batch, *z.shape) if s == "values" else (slices, batch, *z.shape), acc) for s, z in weights)
        dq, share, reads = self._queries(specs, inputs, states, do)
        keys = tuple(specs.gradient("keys", z.dtype) for z in o.handed[:1])
        again = () if keys else (dq,)
        more = do, dlast, dlast, share, *again, *reads
        moved = traffic(inputs, x, w, keys, states, more)
        dx, dw, dkeys, dS = pl.pallas_call(
            specs.walk.backward,
            grid=specs.grid,
            in_specs=[
                *(specs.inputs, specs.states),
                *(specs.read_out(self.gates.gives_both), specs.state, specs.token_out(self.rule.side)),
                tuple(specs.token_out("keys") for _ in again),
                tuple(specs.read_out(normalised) for _ in reads),
            ],
            out_specs=[
                tuple(map(specs.token_out, self.gates.x_sides)),
                tuple(map(specs.weight_out, self.gates.w_sides)),
                tuple(specs.token_out("keys") for _ in keys),
                specs.state_out,
            ],
            out_shape=[x, w, keys, specs.state_gradient],
            compiler_params=specs.warps("keys"),
            cost_estimate=specs.cost(moved, "keys"),
            interpret=self.interpret,
            name=f"{self.rule.name}_gradient",
        )(inputs, states, do, dlast, share, again, reads)
        return Operands(
            x=tuple(map(_over_programs, dx, o.x)),
            w=tuple(d.sum(tuple(range(d.ndim - z.ndim))) for d, z in zip(dw, o.w, strict=True)),
            handed=tuple(map(_over_programs, (*dkeys, dq), o.handed)),
            S=dS._replace(sums=dS.sums.sum(0)) if normalised else dS,
        )

    def _queries(
        self, specs: "_Specs", inputs: Inputs, states: Tree, do: Tree
    ) -> tuple[jax.Array, jax.Array, tuple[Tree, ...]]:
        """The gradient of the queries, their share in that of log decays, and what was read out, if that is wanted."""
        acc, normalised = specs.acc, self.gates.normalised
        dq = specs.gradient("keys", inputs.handed[1].dtype if inputs.handed else acc)
        share, read_out = specs.gradient(self.rule.side, acc), specs.read_out(normalised)
        reads = tuple(specs.read(normalised) for _ in range(reads_again(self.gates, specs.walk.tile)))
        moved = traffic(inputs, states, do, dq, share, reads)
        found: tuple[jax.Array, jax.Array, tuple[Tree, ...]] = pl.pallas_call(
            specs.walk.queries,
            grid=(*specs.grid, specs.count),
            in_specs=[
                *(_in_all_chunks(specs.inputs), specs.one_state),
                _in_all_chunks(specs.read_out(self.gates.gives_both)),
            ],
            out_specs=_in_all_chunks(
                [specs.token_out("keys"), specs.token_out(self.rule.side), tuple(read_out for _ in reads)]
            ),
            out_shape=[dq, share, reads],
            compiler_params=specs.warps("queries"),
            cost_estimate=specs.cost(moved, "queries"),
            interpret=self.interpret,
            name=f"{self.rule.name}_gradient_of_queries",
        )(inputs, states, do)
        return found


def _over_programs(d: jax.Array, z: jax.Array) -> jax.Array:
    """The gradient of an input, over slices of the values and heads that share it."""
    return of_sharers(d.sum(0) if d.ndim > z.ndim else d, z, 2)


class _Specs:
    """What a program sees of the arrays of a chunked scan: all of a head. The grid is batch, heads, slices."""

    def __init__(self, passes: ChunksGpu, starts: jax.Array, o: Operands) -> None:
        (batch, time), (heads, value, key) = o.x[0].shape[:2], matrix(o.S).shape[1:]
        most = values_of_program(key, per_key=not o.handed)
        tile = Sizes(passes.size, power(key, LEAST), power(min(value, most), LEAST))
        self.passes, self.operands, self.sizes, self.acc = passes, o, Sizes(time, key, value), matrix(o.S).dtype
        self.walk = Walk(passes.rule, passes.gates, passes.half, self.sizes, tile)
        self.slices, self.count = up(value, tile.values) // tile.values, starts.shape[1] // passes.size
        self.grid = (batch, heads, self.slices)
        self.start = pl.BlockSpec((None, starts.shape[1]), lambda b, h, s: (b, 0))
        self.state = jax.tree.map(lambda z: self._own(*z.shape[2:]), o.S)
        self.states = jax.tree.map(lambda z: self._own(self.count, *z.shape[2:]), o.S)

    def _own(self, *axes: int) -> pl.BlockSpec:
        """What every head has of these axes."""
        return pl.BlockSpec((None, None, *axes), lambda b, h, s: (b, h, *(0 for _ in axes)))

    @property
    def one_state(self) -> Tree:
        """Of a state before a chunk."""

        def one(z: jax.Array) -> pl.BlockSpec:
            own = z.shape[2:]
            return pl.BlockSpec((None, None, None, *own), lambda b, h, s, n: (b, h, n, *(0 for _ in own)))

        return jax.tree.map(one, self.operands.S)

    @property
    def state_out(self) -> Tree:
        """Of the gradient of a state: slices share the sums of a normaliser."""
        return self.state._replace(sums=self.weight_out("keys")) if self.passes.gates.normalised else self.state

    @property
    def state_gradient(self) -> Tree:
        """Where programs leave that."""
        S = jax.tree.map(array_like, self.operands.S)
        if not self.passes.gates.normalised:
            return S
        return S._replace(sums=array((self.slices, *S.sums.shape), self.acc))

    def read_out(self, normalised: bool) -> Tree:
        """Of what is read out, and perhaps its normaliser, which slices share."""
        y = self.token_out("values")
        return Read(y, self.token("head", 1)) if normalised else y

    def read(self, normalised: bool) -> Tree:
        """Where programs leave that."""
        y = array_like(self.operands.x[0])
        return Read(y, array(y.shape[:3], self.acc)) if normalised else y

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
        return array((slices, *shape), dtype if slices == 1 else self.acc)

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

    @property
    def inputs(self) -> Inputs:
        """Of inputs, weights, keys and queries, and starts."""
        gates, heads = self.passes.gates, self.grid[1]
        x = zip(gates.x_sides, self.operands.x, strict=True)
        return Inputs(
            x=tuple(self.token(side, heads // z.shape[2]) for side, z in x),
            w=tuple(map(self.weight, gates.w_sides)),
            handed=tuple(self.token("keys", heads // z.shape[2]) for z in self.operands.handed),
            starts=self.start,
        )

    def warps(self, part: Part) -> plgpu.CompilerParams:
        """How many share a program of a kernel."""
        four = self.walk.tile.keys <= FOUR[self.passes.rule.side][part]
        return plgpu.CompilerParams(num_warps=4 if four else 8, num_stages=1)

    def cost(self, moved: int, part: Part) -> pl.CostEstimate:
        """That of all chunks, with the bytes read and written."""
        batch, heads, slices = self.grid
        chunks = batch * heads * slices * self.count
        return cost(self.passes.rule, self.passes.gates, self.walk.tile, chunks, moved, part)


def _in_all_chunks(specs: Tree) -> Tree:
    """The same in a grid that has chunks as well."""

    def one(spec: pl.BlockSpec) -> pl.BlockSpec:
        place = spec.index_map
        assert place is not None
        return pl.BlockSpec(spec.block_shape, lambda b, h, s, n: place(b, h, s))

    return jax.tree.map(one, specs, is_leaf=lambda spec: isinstance(spec, pl.BlockSpec))


def over_chunks(passes: ChunksGpu, x: Arrays, w: Arrays, handed: Arrays, pos: jax.Array, S: Tree) -> tuple[Tree, Tree]:
    """What the equations make of y [B, T, G, H, V], in the dtype of x[0], and the last S.

    x [B, T, G, H, V, K or 1] by their sides, w [G, H, V, K or 1], handed [B, T, G, H, K], pos [B, T], S [B, G, H, V, K]
    of the token before; x but for x[0] and handed may have 1 for H, or for G and H. There are at most MOST keys.
    With a normaliser S is a `State` with sums [B, G, H, K], and y, where no equation takes the normaliser, a `Read`
    with norm [B, T, G, H].
    """
    gates, shape = passes.gates, x[0].shape

    def by_head(side: Side, z: jax.Array) -> jax.Array:
        whole = z.reshape(*z.shape[:-3], -1, z.shape[-1])
        return whole[..., 0] if side == "head" else whole

    operands = Operands(
        x=tuple(map(by_head, gates.x_sides, x)),
        w=tuple(by_head(side, z).astype(matrix(S).dtype) for side, z in zip(gates.w_sides, w, strict=True)),
        handed=tuple(by_head("keys", z) for z in handed),
        S=jax.tree.map(lambda z: z.reshape(z.shape[0], -1, *z.shape[3:]), S),
    )
    y, last = run(passes, document_starts(pos, passes.size), operands)
    y = jax.tree.map(lambda z: z.reshape(*shape[:4], *z.shape[3:]), y)
    return y, jax.tree.map(lambda z, like: z.reshape(like.shape), last, S)
