"""The kernels of chunked scans on a GPU: the chunks of a head for a slice of its values, forward and backward."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from kernels.blocks_gpu import Ref, load, store, tile
from kernels.chunk import Documents, Rule


class Sizes(NamedTuple):
    """Of a sequence and a head, and what a program has of them: tokens of a chunk, keys, values of a slice."""

    time: int
    keys: int
    values: int
    chunk: int
    rows: int
    lanes: int


class _Chunk(NamedTuple):
    """The tokens of a chunk, the keys and values of a program, and which of them there are."""

    tokens: jax.Array
    keys: jax.Array
    values: jax.Array
    by_key: jax.Array
    by_value: jax.Array
    by_state: jax.Array

    def of_key(self, ref: Ref) -> jax.Array:
        """Keys or queries [Q, K]."""
        return tile(ref, self.tokens, self.keys, self.by_key)

    def of_value(self, ref: Ref) -> jax.Array:
        """Values [Q, slice]."""
        return tile(ref, self.tokens, self.values, self.by_value)

    def decays(self, ref: Ref) -> jax.Array:
        """[Q] or [Q, K]; those of tokens that there are not are there."""
        if len(ref.shape) == 1:
            return load(ref.at[self.tokens], self.tokens >= 0)
        return tile(ref, self.tokens, self.keys, self.by_key)

    def documents(self, starts: Ref) -> Documents:
        """Where none starts in between."""
        size = self.tokens.shape[0]
        row = jax.lax.broadcasted_iota(jnp.int32, (size, size), 0)
        lane = jax.lax.broadcasted_iota(jnp.int32, (size, size), 1)
        start = load(starts.at[self.tokens], self.tokens >= 0)
        place = jnp.arange(size, dtype=jnp.int32)
        last = jnp.sum(jnp.where(place == size - 1, start, 0)[None, :], 1, keepdims=True)
        pairs = (lane <= row) & (lane >= start[:, None])
        return Documents(pairs, start[:, None] < 0, place[:, None] >= last, last < 0)


def _values(sizes: Sizes) -> jax.Array:
    """The values of a program."""
    return pl.program_id(2) * sizes.lanes + jnp.arange(sizes.lanes, dtype=jnp.int32)


def _chunk(sizes: Sizes, values: jax.Array, n: jax.Array | int) -> _Chunk:
    tokens = n * sizes.chunk + jnp.arange(sizes.chunk, dtype=jnp.int32)
    keys = jnp.arange(sizes.rows, dtype=jnp.int32)
    live, some, width = (tokens < sizes.time)[:, None], keys < sizes.keys, (values < sizes.values)[None, :]
    return _Chunk(tokens, keys, values, live & some[None, :], live & width, some[:, None] & width)


def forward(
    rule: Rule,
    sizes: Sizes,
    decays: Ref,
    k: Ref,
    v: Ref,
    q: Ref,
    starts: Ref,
    S0: Ref,
    y: Ref,
    last: Ref,
    states: Ref,
) -> None:
    """y of all tokens, the state before every chunk and the last."""
    values = _values(sizes)

    def chunk(n: jax.Array, S: jax.Array) -> jax.Array:
        c = _chunk(sizes, values, n)
        store(states.at[n, c.keys[:, None], c.values[None, :]], S, c.by_state)
        found, S = rule.forward(c.decays(decays), c.documents(starts), S, c.of_key(k), c.of_value(v), c.of_key(q))
        store(y.at[c.tokens[:, None], c.values[None, :]], found, c.by_value)
        return S

    c = _chunk(sizes, values, 0)
    where = (c.keys[:, None], c.values[None, :])
    S = jax.lax.fori_loop(0, states.shape[0], chunk, load(S0.at[where], c.by_state))
    store(last.at[where], S, c.by_state)


def backward(
    rule: Rule,
    sizes: Sizes,
    decays: Ref,
    k: Ref,
    v: Ref,
    q: Ref,
    starts: Ref,
    states: Ref,
    dy: Ref,
    dlast: Ref,
    ddecays: Ref,
    dk: Ref,
    dv: Ref,
    dq: Ref,
    dS0: Ref,
) -> None:
    """The gradients of all tokens, chunk by chunk in reverse."""
    count, values = states.shape[0], _values(sizes)

    def chunk(passed: jax.Array, dS: jax.Array) -> jax.Array:
        n = count - 1 - passed
        c = _chunk(sizes, values, n)
        S = load(states.at[n, c.keys[:, None], c.values[None, :]], c.by_state)
        tiles = S, dS, c.of_key(k), c.of_value(v), c.of_key(q), c.of_value(dy)
        d = rule.backward(c.decays(decays), c.documents(starts), *tiles)
        if d.decays.ndim == 1:
            store(ddecays.at[c.tokens], d.decays, c.tokens >= 0)
        else:
            store(ddecays.at[c.tokens[:, None], c.keys[None, :]], d.decays, (c.keys < sizes.keys)[None, :])
        store(dk.at[c.tokens[:, None], c.keys[None, :]], d.k, c.by_key)
        store(dq.at[c.tokens[:, None], c.keys[None, :]], d.q, c.by_key)
        store(dv.at[c.tokens[:, None], c.values[None, :]], d.v, c.by_value)
        return d.S

    c = _chunk(sizes, values, 0)
    where = (c.keys[:, None], c.values[None, :])
    dS = jax.lax.fori_loop(0, count, chunk, load(dlast.at[where], c.by_state))
    store(dS0.at[where], dS, c.by_state)
