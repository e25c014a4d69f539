"""The kernels of chunked scans on a GPU: the chunks of a head for a slice of its values, forward and backward."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from kernels.blocks_gpu import Ref, Refs, Tree, tile
from kernels.chunk import Rule
from kernels.chunk_gates import Chunk, Inputs, Sizes, chunk_forward, gates_backward, known
from kernels.chunk_places_gpu import Place, first_chunk
from kernels.normalised_chunk import matrix
from kernels.tiles import Arrays, Gates, Side


class Walk(NamedTuple):
    """The kernels for these equations; sizes: those of a sequence and a head; tile: of a chunk and a program.

    half: the precision of operands of products.
    """

    rule: Rule
    gates: Gates
    half: jnp.dtype
    sizes: Sizes
    tile: Sizes

    def forward(self, inputs: Inputs, S0: Tree, o: Tree, last: Tree, states: Tree) -> None:
        """What is given back of all tokens, the state before every chunk and the last."""
        begin, count = first_chunk(self.sizes, self.tile), matrix(states).shape[0]
        weights = self._weights(inputs, begin)

        def step(n: jax.Array, S: Tree) -> Tree:
            here = begin.chunk(n)
            here.store_state(states, S, n)
            found, S = chunk_forward(self.rule, self._gates, self._chunk(here, inputs, weights, S), S)
            here.store_read(o, found)
            return S

        begin.store_state(last, jax.lax.fori_loop(0, count, step, begin.load_state(S0)))

    def queries(self, inputs: Inputs, states: Tree, do: Tree, dq: Ref, share: Ref, reads: tuple[Tree, ...]) -> None:
        """The gradient of the queries of a chunk, their share in that of log decays, and what was read out, if that is
        wanted; grid: batch, heads, slices, chunks.
        """
        here = first_chunk(self.sizes, self.tile).chunk(pl.program_id(3))
        S = here.load_state(states)
        chunk = self._chunk(here, inputs, self._weights(inputs, here), S)
        kept = inputs.x[0].dtype if reads else matrix(S).dtype
        both = known(self.rule, self._gates, chunk, S, here.load_given(do, matrix(S).dtype), None, kept)
        found, part = self.rule.back_queries(both.met, both.dscores, S, both.dy, both.read)
        here.store_tokens("keys", dq, found)
        here.store_tokens(self.rule.side, share, part)
        for refs in reads:
            here.store_read(refs, both.read)

    def backward(
        self,
        inputs: Inputs,
        states: Tree,
        do: Tree,
        dlast: Tree,
        share: Ref,
        queries: Refs,
        reads: tuple[Tree, ...],
        dx: Refs,
        dw: Refs,
        dkeys: Refs,
        dS0: Tree,
    ) -> None:
        """The gradients of all else, chunk by chunk in reverse; queries: those of queries that equations make, which
        leave keys no gradient of their own.
        """
        begin, count = first_chunk(self.sizes, self.tile), matrix(states).shape[0]
        weights, exact = self._weights(inputs, begin), matrix(dlast).dtype

        def step(passed: jax.Array, carried: tuple[Tree, ...]) -> tuple[Tree, ...]:
            dS, *sums = carried
            n = count - 1 - passed
            here = begin.chunk(n)
            fade = self.rule.fade(here.load_state(states, n), dS)
            chunk = self._chunk(here, inputs, weights, dS)
            back = here.load_given(do, exact)
            read = here.load_read(reads[0], exact) if reads else back
            both = known(self.rule, self._gates, chunk, dS, back, read, exact)
            part = here.of_both(share, self.rule.side)
            d = self.rule.back_keys(both.met, both.dscores, fade, dS, both.made.v, both.dy, part)
            for ref in dkeys:
                here.store_tokens("keys", ref, d.k)
            dq = here.of_both(queries[0], "keys") if queries else None
            chunk = chunk._replace(x=self._tokens(here, inputs, exact, again=True))  # not to be held in between
            of_tokens, of_weights = gates_backward(self.gates, chunk, both, d, dq)
            for side, ref, value in zip(self.gates.x_sides, dx, of_tokens, strict=True):
                here.store_tokens(side, ref, value)
            more = zip(self.gates.w_sides, sums, of_weights, strict=True)
            return d.S, *(old + (z if side == "head" else jnp.sum(z, 0, keepdims=True)) for side, old, z in more)

        nothing = (self._nothing(side, exact) for side in self.gates.w_sides)
        dS, *sums = jax.lax.fori_loop(0, count, step, (begin.load_gradient(dlast), *nothing))
        begin.store_state(dS0, dS)
        for side, ref, total in zip(self.gates.w_sides, dw, sums, strict=True):
            begin.store_head(side, ref, total)

    @property
    def _gates(self) -> Gates:
        """The equations, those that make operands of products computed once."""
        return self.gates._replace(gates=_once(self.gates.gates), out_grad=_once(self.gates.out_grad))

    def _weights(self, inputs: Inputs, here: Place) -> Arrays:
        return tuple(here.of_head(z, side) for side, z in zip(self.gates.w_sides, inputs.w, strict=True))

    def _chunk(self, here: Place, inputs: Inputs, weights: Arrays, S: Tree) -> Chunk:
        keys = here.some("keys")
        return Chunk(
            x=self._tokens(here, inputs, matrix(S).dtype),
            w=weights,
            handed=tuple(tile(z, here.tokens, here.keys, here.mask("keys")) for z in inputs.handed),
            half=self.half,
            there=jnp.ones((self.tile.tokens, 1), bool) if here.live is None else here.live[:, None],
            some=None if keys is None else keys[None, :],
            documents=here.documents(inputs.starts),
        )

    def _tokens(self, here: Place, inputs: Inputs, dtype: jnp.dtype, again: bool = False) -> Arrays:
        sides = zip(self.gates.x_sides, inputs.x, strict=True)
        return tuple(here.of_tokens(z, side, again).astype(dtype) for side, z in sides)

    def _nothing(self, side: Side, dtype: jnp.dtype) -> jax.Array:
        """A sum that grows: [1, slice], [1, K], or [Q, 1] by the place in a chunk."""
        shape = (self.tile.tokens, 1) if side == "head" else (1, self.tile.across(side))
        return jnp.zeros(shape, dtype)


def _once(function: Callable[..., Tree] | None) -> Callable[..., Tree] | None:
    """The same, whose results are computed once.

    Triton computes again what needs no other thread, wherever a product wants an operand, and there each thread has
    most of a tile: gates were computed in five layouts at a time. What is summed, if only over one element, stays.
    """
    if function is None:
        return None

    def settled(*given: Tree) -> Tree:
        return jax.tree.map(lambda x: jnp.sum(x[:, :, None], 2) if jnp.ndim(x) == 2 else x, function(*given))

    return settled
