"""The kernels of chunked scans on a GPU: the chunks of a head for a slice of its values, forward and backward."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from kernels.blocks_gpu import Ref, Refs, load, store, tile
from kernels.chunk import Documents, Rule, square
from kernels.chunk_gates import Chunk, Sizes, chunk_backward, chunk_forward
from kernels.tiles import Arrays, Gates, Side


class _Place(NamedTuple):
    """The tokens of a chunk, the keys and values of a program, and which of them there are."""

    sizes: Sizes
    tokens: jax.Array
    keys: jax.Array
    values: jax.Array

    def chunk(self, n: jax.Array) -> "_Place":
        """Chunk n, from the first."""
        return self._replace(tokens=n * self.tokens.shape[0] + self.tokens)

    @property
    def by_key(self) -> jax.Array:
        """[Q, K]"""
        return (self.tokens < self.sizes.tokens)[:, None] & (self.keys < self.sizes.keys)[None, :]

    @property
    def by_value(self) -> jax.Array:
        """[Q, slice]"""
        return (self.tokens < self.sizes.tokens)[:, None] & (self.values < self.sizes.values)[None, :]

    @property
    def by_state(self) -> jax.Array:
        """[K, slice]"""
        return (self.keys < self.sizes.keys)[:, None] & (self.values < self.sizes.values)[None, :]

    @property
    def state(self) -> tuple[jax.Array, jax.Array]:
        """Where a state is [K, slice]."""
        return self.keys[:, None], self.values[None, :]

    def across(self, side: Side) -> jax.Array:
        """The values or the keys."""
        return self.values if side == "values" else self.keys

    def of_tokens(self, ref: Ref, side: Side) -> jax.Array:
        """An input [Q, slice], [Q, K] or [Q, 1]; copies of others where there is none."""
        at = jnp.minimum(self.tokens, self.sizes.tokens - 1)
        if side == "head":
            return plgpu.load(ref.at[at])[:, None]
        return plgpu.load(ref.at[at[:, None], jnp.minimum(self.across(side), self.sizes.across(side) - 1)[None, :]])

    def of_head(self, ref: Ref, side: Side) -> jax.Array:
        """A weight [1, slice], [1, K] or [1, 1]."""
        if side == "head":
            return ref[...][None, :]
        return plgpu.load(ref.at[jnp.minimum(self.across(side), self.sizes.across(side) - 1)])[None, :]

    def documents(self, starts: Ref) -> Documents:
        """Where none starts in between."""
        size = self.tokens.shape[0]
        row, lane = square(size)
        start = load(starts.at[self.tokens], self.tokens >= 0)
        place = jnp.arange(size, dtype=jnp.int32)
        last = jnp.sum(jnp.where(place == size - 1, start, 0)[None, :], 1, keepdims=True)
        start, place = start[:, None], place[:, None]
        return Documents((lane <= row) & (lane >= start), start < 0, place >= last, last < 0, start == place)


class Walk(NamedTuple):
    """The kernels for these equations; sizes: those of a sequence and a head; tile: of a chunk and a program."""

    rule: Rule
    gates: Gates
    sizes: Sizes
    tile: Sizes

    def forward(
        self,
        x: Refs,
        w: Refs,
        k: Ref,
        q: Ref,
        starts: Ref,
        S0: Ref,
        o: Ref,
        last: Ref,
        states: Ref,
    ) -> None:
        """What is given back of all tokens, the state before every chunk and the last."""
        begin = self._first()
        weights = self._weights(w, begin)

        def step(n: jax.Array, S: jax.Array) -> jax.Array:
            here = begin.chunk(n)
            store(states.at[n, *here.state], S, here.by_state)
            found, S = chunk_forward(self.rule, self.gates, self._chunk(here, x, weights, k, q, starts, S), S)
            store(o.at[here.tokens[:, None], here.values[None, :]], found, here.by_value)
            return S

        S = jax.lax.fori_loop(0, states.shape[0], step, load(S0.at[begin.state], begin.by_state))
        store(last.at[begin.state], S, begin.by_state)

    def backward(
        self,
        x: Refs,
        w: Refs,
        k: Ref,
        q: Ref,
        starts: Ref,
        states: Ref,
        do: Ref,
        dlast: Ref,
        dx: Refs,
        dw: Refs,
        dk: Ref,
        dq: Ref,
        dS0: Ref,
    ) -> None:
        """The gradients of all tokens, chunk by chunk in reverse."""
        count, begin = states.shape[0], self._first()
        weights = self._weights(w, begin)

        def step(passed: jax.Array, carried: Arrays) -> Arrays:
            dS, *sums = carried
            n = count - 1 - passed
            here = begin.chunk(n)
            S = load(states.at[n, *here.state], here.by_state)
            chunk = self._chunk(here, x, weights, k, q, starts, S)
            given = tile(do, here.tokens, here.values, here.by_value).astype(S.dtype)
            d = chunk_backward(self.rule, self.gates, chunk, S, dS, given)
            store(dk.at[here.tokens[:, None], here.keys[None, :]], d.k, here.by_key)
            store(dq.at[here.tokens[:, None], here.keys[None, :]], d.q, here.by_key)
            for side, ref, value in zip(self.gates.x_sides, dx, d.x, strict=True):
                self._store_tokens(here, side, ref, value)
            more = zip(self.gates.w_sides, sums, d.w, strict=True)
            return d.S, *(old + (z if side == "head" else jnp.sum(z, 0, keepdims=True)) for side, old, z in more)

        dS = load(dlast.at[begin.state], begin.by_state)
        dS, *sums = jax.lax.fori_loop(0, count, step, (dS, *(self._nothing(side, dS) for side in self.gates.w_sides)))
        store(dS0.at[begin.state], dS, begin.by_state)
        for side, ref, total in zip(self.gates.w_sides, dw, sums, strict=True):
            self._store_weight(begin, side, ref, total)

    def _first(self) -> _Place:
        """The first chunk of a program."""
        return _Place(
            self.sizes,
            tokens=jnp.arange(self.tile.tokens, dtype=jnp.int32),
            keys=jnp.arange(self.tile.keys, dtype=jnp.int32),
            values=pl.program_id(2) * self.tile.values + jnp.arange(self.tile.values, dtype=jnp.int32),
        )

    def _weights(self, w: Refs, here: _Place) -> Arrays:
        return tuple(here.of_head(z, side) for side, z in zip(self.gates.w_sides, w, strict=True))

    def _chunk(self, here: _Place, x: Refs, weights: Arrays, k: Ref, q: Ref, starts: Ref, S: jax.Array) -> Chunk:
        inputs = zip(self.gates.x_sides, x, strict=True)
        return Chunk(
            x=tuple(here.of_tokens(z, side).astype(S.dtype) for side, z in inputs),
            w=weights,
            k=tile(k, here.tokens, here.keys, here.by_key),
            q=tile(q, here.tokens, here.keys, here.by_key),
            there=(here.tokens < self.sizes.tokens)[:, None],
            documents=here.documents(starts),
        )

    def _store_tokens(self, here: _Place, side: Side, ref: Ref, value: jax.Array) -> None:
        if side == "head":
            store(ref.at[here.tokens], jnp.sum(value, 1), here.tokens < self.sizes.tokens)
            return
        mask = here.by_value if side == "values" else here.by_key
        store(ref.at[here.tokens[:, None], here.across(side)[None, :]], jnp.broadcast_to(value, mask.shape), mask)

    def _nothing(self, side: Side, like: jax.Array) -> jax.Array:
        """A sum that grows: [1, slice], [1, K], or [Q, 1] by the place in a chunk."""
        shape = (self.tile.tokens, 1) if side == "head" else (1, self.tile.across(side))
        return jnp.zeros(shape, like.dtype)

    def _store_weight(self, here: _Place, side: Side, ref: Ref, total: jax.Array) -> None:
        if side == "head":
            ref[...] = jnp.sum(total, 0)
            return
        across = here.across(side)
        store(ref.at[across], jnp.sum(total, 0), across < self.sizes.across(side))
