"""The kernels of chunked scans on a TPU: one chunk of a head, forward and backward, with the state in vector memory."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from kernels.blocks_tpu import LANES, Ref, Refs, Tree
from kernels.chunk import Documents, Rule, square
from kernels.chunk_gates import Chunk, Inputs, chunk_forward, gates_backward, known
from kernels.normalised_chunk import matrix
from kernels.tiles import Gates


class Walk(NamedTuple):
    """The kernels for these equations and `time` tokens; the grid is batch, heads, chunks.

    half: the precision of operands of products.
    """

    rule: Rule
    gates: Gates
    half: jnp.dtype
    time: int

    def forward(
        self,
        inputs: Inputs,
        S0: Tree,
        o: Tree,
        last: Tree,
        states: Tree,
        carry: Tree,
    ) -> None:
        """What is given back of a chunk, the state before it and the last."""

        @pl.when(pl.program_id(2) == 0)
        def _() -> None:
            _write(carry, _held(S0, 0, 0))

        S = _held(carry)
        _write(states, S, 0, 0, 0)
        found, S = chunk_forward(self.rule, self.gates, self._chunk(pl.program_id(2), inputs, S), S)
        jax.tree.map(_write_tokens, o, found)
        _write(carry, S)
        _write(last, S, 0, 0)

    def backward(
        self,
        inputs: Inputs,
        states: Tree,
        do: Tree,
        dlast: Tree,
        dx: Refs,
        dw: Refs,
        dhanded: Refs,
        dS0: Tree,
        carry: Tree,
    ) -> None:
        """The gradients of a chunk; chunks come in reverse."""

        @pl.when(pl.program_id(2) == 0)
        def _() -> None:
            _write(carry, _held(dlast, 0, 0))
            for z in dw:
                z[...] = jnp.zeros_like(z)

        S, dS = _held(states, 0, 0, 0), _held(carry)
        chunk = self._chunk(pl.num_programs(2) - 1 - pl.program_id(2), inputs, S)
        exact = matrix(S).dtype
        both = known(self.rule, self.gates, chunk, S, jax.tree.map(lambda ref: _tokens(ref, exact), do), None, exact)
        dq, share = self.rule.back_queries(both.met, both.dscores, S, both.dy, both.read)
        fade = self.rule.fade(S, dS)
        d = self.rule.back_keys(both.met, both.dscores, fade, dS, both.made.v, both.dy, share)
        for ref, value in zip(dhanded, (d.k, dq), strict=False):
            ref[0, 0] = value.astype(ref.dtype)
        of_tokens, of_weights = gates_backward(self.gates, chunk, both, d, None if inputs.handed else dq)
        for ref, value in zip(dx, of_tokens, strict=True):
            _write_tokens(ref, jnp.where(chunk.there, value, 0))
        for ref, value in zip(dw, of_weights, strict=True):
            ref[0, 0] += jnp.sum(value, 0, keepdims=True)
        _write(carry, d.S)
        _write(dS0, d.S, 0, 0)

    def _chunk(self, n: jax.Array, inputs: Inputs, S: Tree) -> Chunk:
        size = inputs.starts.shape[3]
        return Chunk(
            x=tuple(_tokens(ref, matrix(S).dtype) for ref in inputs.x),
            w=tuple(z[0] for z in inputs.w),
            handed=tuple(z[0, 0] for z in inputs.handed),
            half=self.half,
            there=jax.lax.broadcasted_iota(jnp.int32, (size, 1), 0) < self.time - n * size,
            some=None,
            documents=_documents(inputs.starts[0, 0]),
        )


def _tokens(ref: Ref, dtype: jnp.dtype) -> jax.Array:
    """The tokens of a chunk [Q, V or K], or what heads have of them [Q, 1], which lies along lanes."""
    return ref[0, 0].astype(dtype) if ref.ndim == 4 else column(ref[0, 0, 0])


def _write_tokens(ref: Ref, value: jax.Array) -> None:
    if ref.ndim == 4:
        ref[0, 0] = value.astype(ref.dtype)
    else:
        ref[0, 0, 0] = _row(value.astype(ref.dtype))


def _held(refs: Tree, *place: int) -> Tree:
    """A state in memory, at a place of its blocks."""
    return jax.tree.map(lambda ref: ref[(*place, ...)], refs)


def _write(refs: Tree, state: Tree, *place: int) -> None:
    for ref, value in zip(jax.tree.leaves(refs), jax.tree.leaves(state), strict=True):
        ref[(*place, ...)] = value


def column(row: jax.Array) -> jax.Array:
    """A row [1, n] as a column [n, 1]."""
    turned: jax.Array = jnp.broadcast_to(row, (LANES, row.shape[1])).T[:, :1]
    return turned


def _row(turned: jax.Array) -> jax.Array:
    """A column [n, 1] as a row [1, n]."""
    row: jax.Array = jnp.broadcast_to(turned, (turned.shape[0], LANES)).T[:1]
    return row


def _documents(starts: jax.Array) -> Documents:
    """From the places [1, Q] where the documents of tokens start."""
    size = starts.shape[1]
    row, lane = square(size)
    start, last = jnp.broadcast_to(starts, (size, size)).T, starts[:, size - 1 :]
    first, place = start[:, :1], row[:, :1]
    return Documents((lane <= row) & (lane >= start), first < 0, place >= last, last < 0, first == place)
