"""The kernels of chunked scans on a TPU: one chunk of a head, forward and backward, with the state in vector memory."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from kernels.blocks_tpu import LANES, Ref, Refs
from kernels.chunk import Documents, Rule, square
from kernels.chunk_gates import Chunk, chunk_forward, gates_backward, known
from kernels.tiles import Gates, Side


class Walk(NamedTuple):
    """The kernels for these equations and `time` tokens; the grid is batch, heads, chunks.

    half: the precision of operands of products. handed: keys and queries, unless equations make them.
    """

    rule: Rule
    gates: Gates
    half: jnp.dtype
    time: int

    def forward(
        self,
        x: Refs,
        w: Refs,
        handed: Refs,
        starts: Ref,
        S0: Ref,
        o: Ref,
        last: Ref,
        states: Ref,
        carry: Ref,
    ) -> None:
        """What is given back of a chunk, the state before it and the last."""

        @pl.when(pl.program_id(2) == 0)
        def _() -> None:
            carry[...] = S0[0, 0]

        S = carry[...]
        states[0, 0, 0] = S
        found, S = chunk_forward(self.rule, self.gates, self._chunk(pl.program_id(2), x, w, handed, starts, S), S)
        o[0, 0] = found.astype(o.dtype)
        carry[...] = S
        last[0, 0] = S

    def backward(
        self,
        x: Refs,
        w: Refs,
        handed: Refs,
        starts: Ref,
        states: Ref,
        do: Ref,
        dlast: Ref,
        dx: Refs,
        dw: Refs,
        dhanded: Refs,
        dS0: Ref,
        carry: Ref,
    ) -> None:
        """The gradients of a chunk; chunks come in reverse."""

        @pl.when(pl.program_id(2) == 0)
        def _() -> None:
            carry[...] = dlast[0, 0]
            for z in dw:
                z[...] = jnp.zeros_like(z)

        S = states[0, 0, 0]
        chunk = self._chunk(pl.num_programs(2) - 1 - pl.program_id(2), x, w, handed, starts, S)
        both = known(self.rule, self.gates, chunk, S, do[0, 0].astype(S.dtype), None, S.dtype)
        dq, share = self.rule.back_queries(both.met, both.dscores, S, both.dy, both.read)
        dS = carry[...]
        fade = self.rule.fade(S, dS)
        d = self.rule.back_keys(both.met, both.dscores, fade, dS, both.made.v, both.dy, share)
        for ref, value in zip(dhanded, (d.k, dq), strict=False):
            ref[0, 0] = value.astype(ref.dtype)
        of_tokens, of_weights = gates_backward(self.gates, chunk, both, d, None if handed else dq)
        for side, ref, value in zip(self.gates.x_sides, dx, of_tokens, strict=True):
            value = jnp.where(chunk.there, value, 0).astype(ref.dtype)
            if side == "head":
                ref[0, 0, 0] = _row(value)
            else:
                ref[0, 0] = value
        for ref, value in zip(dw, of_weights, strict=True):
            ref[0, 0] += jnp.sum(value, 0, keepdims=True)
        carry[...] = d.S
        dS0[0, 0] = d.S

    def _chunk(self, n: jax.Array, x: Refs, w: Refs, handed: Refs, starts: Ref, S: jax.Array) -> Chunk:
        size = starts.shape[3]

        def token(side: Side, ref: Ref) -> jax.Array:
            return column(ref[0, 0, 0]) if side == "head" else ref[0, 0].astype(S.dtype)

        return Chunk(
            x=tuple(map(token, self.gates.x_sides, x)),
            w=tuple(z[0] for z in w),
            handed=tuple(z[0, 0] for z in handed),
            half=self.half,
            there=jax.lax.broadcasted_iota(jnp.int32, (size, 1), 0) < self.time - n * size,
            some=None,
            documents=_documents(starts[0, 0]),
        )


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
