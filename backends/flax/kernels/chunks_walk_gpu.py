"""The kernels of chunked scans on a GPU: the chunks of a head for a slice of its values, forward and backward."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from kernels.blocks_gpu import Ref, Refs, Tree, load, store, tile
from kernels.chunk import Documents, Rule, square
from kernels.chunk_gates import Chunk, Sizes, chunk_forward, gates_backward, known
from kernels.normalised_chunk import Read, State, matrix
from kernels.tiles import Arrays, Gates, Side


class _Place(NamedTuple):
    """The tokens of a chunk, the keys and values of a program, and which of them there are; whether its slice of the
    values is the first.
    """

    sizes: Sizes
    first_slice: jax.Array
    tokens: jax.Array
    keys: jax.Array
    values: jax.Array

    def chunk(self, n: jax.Array | int) -> "_Place":
        """Chunk n, from the first."""
        return self._replace(tokens=n * self.tokens.shape[0] + self.tokens)

    @property
    def live(self) -> jax.Array | None:
        """Which tokens there are [Q]; None: all."""
        return None if self.sizes.tokens % self.tokens.shape[0] == 0 else self.tokens < self.sizes.tokens

    def some(self, side: Side) -> jax.Array | None:
        """Which values or keys there are; None: all."""
        across, size = self.across(side), self.sizes.across(side)
        return None if size % across.shape[0] == 0 else across < size

    def mask(self, side: Side) -> jax.Array | None:
        """Of [Q, slice] or [Q, K]."""
        return _product(self.live, self.some(side), (self.tokens.shape[0], self.across(side).shape[0]))

    @property
    def of_states(self) -> jax.Array | None:
        """The mask of [K, slice]."""
        return _product(self.some("keys"), self.some("values"), (self.keys.shape[0], self.values.shape[0]))

    def load_state(self, refs: Tree, *chunk: jax.Array) -> Tree:
        """The slice of a state [K, slice], and with a normaliser the sums of all keys [1, K]; copies of other values
        where there are none, as of the tokens, for something may be divided by what is read.
        """
        if isinstance(refs, State):
            return State(self.load_state(refs.S, *chunk), self._load_sums(refs, *chunk))
        mask = _product(self.some("keys"), None, (self.keys.shape[0], self.values.shape[0]))
        return load(refs.at[(*chunk, self.keys[:, None], self._near("values")[None, :])], mask)

    def load_gradient(self, refs: Tree) -> Tree:
        """That of a state, zero where there are no values."""
        if isinstance(refs, State):
            return State(self.load_gradient(refs.S), self.of_one_slice(self._load_sums(refs)))
        return tile(refs, self.keys, self.values, self.of_states)

    def _load_sums(self, refs: State, *chunk: jax.Array) -> jax.Array:
        return load(refs.sums.at[(*chunk, self.keys)], self.some("keys"))[None, :]

    def store_state(self, refs: Tree, S: Tree, *chunk: jax.Array) -> None:
        """Slices that share the sums of the keys write the same."""
        if isinstance(refs, State):
            store(refs.sums.at[(*chunk, self.keys)], jnp.sum(S.sums, 0), self.some("keys"))
        place = (*chunk, self.keys[:, None], self.values[None, :])
        store(matrix(refs).at[place], matrix(S), self.of_states)

    def of_one_slice(self, gradient: jax.Array) -> jax.Array:
        """The gradient of what slices share comes in through the first, for what they give back is added up."""
        return jnp.where(self.first_slice, gradient, 0)

    def load_read(self, refs: Tree, dtype: jnp.dtype) -> Tree:
        """What was read out, and its normaliser; copies of others where there is no token."""
        if isinstance(refs, Read):
            return Read(self.load_read(refs.y, dtype), self.of_tokens(refs.norm, "head"))
        return self.of_tokens(refs, "values").astype(dtype)

    def across(self, side: Side) -> jax.Array:
        """The values or the keys."""
        return self.values if side == "values" else self.keys

    def of_tokens(self, ref: Ref, side: Side, again: bool = False) -> jax.Array:
        """An input [Q, slice], [Q, K] or [Q, 1]; copies of others where there is none. again: for the last time."""
        at = self.tokens if self.live is None else jnp.minimum(self.tokens, self.sizes.tokens - 1)
        policy = "evict_first" if again else None  # without which the compiler would keep what was read before
        if side == "head":
            return plgpu.load(ref.at[at], eviction_policy=policy)[:, None]
        return plgpu.load(ref.at[at[:, None], self._near(side)[None, :]], eviction_policy=policy)

    def of_both(self, ref: Ref, side: Side) -> jax.Array:
        """A gradient that the other half of the backward pass has left, shaped as an input; zero where none is."""
        if side == "head":
            return load(ref.at[self.tokens], self.live)[:, None]
        return tile(ref, self.tokens, self.across(side), self.mask(side))

    def of_head(self, ref: Ref, side: Side) -> jax.Array:
        """A weight [1, slice], [1, K] or [1, 1]."""
        return ref[...][None, :] if side == "head" else plgpu.load(ref.at[self._near(side)])[None, :]

    def _near(self, side: Side) -> jax.Array:
        """Values or keys, others again where there are none."""
        across = self.across(side)
        return across if self.some(side) is None else jnp.minimum(across, self.sizes.across(side) - 1)

    def documents(self, starts: Ref) -> Documents:
        """Where none starts in between."""
        size = self.tokens.shape[0]
        row, lane = square(size)
        start = load(starts.at[self.tokens], None)
        place = jnp.arange(size, dtype=jnp.int32)
        last = jnp.sum(jnp.where(place == size - 1, start, 0)[None, :], 1, keepdims=True)
        start, place = start[:, None], place[:, None]
        return Documents((lane <= row) & (lane >= start), start < 0, place >= last, last < 0, start == place)


def _product(rows: jax.Array | None, lanes: jax.Array | None, shape: tuple[int, int]) -> jax.Array | None:
    """The mask of a tile; None if all of it is there."""
    if rows is None:
        return None if lanes is None else jnp.broadcast_to(lanes[None, :], shape)
    return jnp.broadcast_to(rows[:, None], shape) if lanes is None else rows[:, None] & lanes[None, :]


class Walk(NamedTuple):
    """The kernels for these equations; sizes: those of a sequence and a head; tile: of a chunk and a program.

    half: the precision of operands of products. handed: keys and queries, unless equations make them.
    """

    rule: Rule
    gates: Gates
    half: jnp.dtype
    sizes: Sizes
    tile: Sizes

    def forward(
        self,
        x: Refs,
        w: Refs,
        handed: Refs,
        starts: Ref,
        S0: Tree,
        o: Tree,
        last: Tree,
        states: Tree,
    ) -> None:
        """What is given back of all tokens, the state before every chunk and the last."""
        begin, count = self._first(), matrix(states).shape[0]
        weights = self._weights(w, begin)

        def step(n: jax.Array, S: Tree) -> Tree:
            here = begin.chunk(n)
            here.store_state(states, S, n)
            found, S = chunk_forward(self.rule, self.gates, self._chunk(here, x, weights, handed, starts, S), S)
            self._store_read(here, o, found)
            return S

        begin.store_state(last, jax.lax.fori_loop(0, count, step, begin.load_state(S0)))

    def queries(
        self,
        x: Refs,
        w: Refs,
        handed: Refs,
        starts: Ref,
        states: Tree,
        do: Tree,
        dq: Ref,
        share: Ref,
        reads: tuple[Tree, ...],
    ) -> None:
        """The gradient of the queries of a chunk, their share in that of log decays, and what was read out, if that is
        wanted; grid: batch, heads, slices, chunks.
        """
        here = self._first().chunk(pl.program_id(3))
        S = here.load_state(states)
        chunk = self._chunk(here, x, self._weights(w, here), handed, starts, S)
        kept = x[0].dtype if reads else matrix(S).dtype
        both = known(self.rule, self.gates, chunk, S, self._given(here, do, S), None, kept)
        found, part = self.rule.back_queries(both.met, both.dscores, S, both.dy, both.read)
        self._store_tokens(here, "keys", dq, found)
        self._store_tokens(here, self.rule.side, share, part)
        for refs in reads:
            self._store_read(here, refs, both.read)

    def backward(
        self,
        x: Refs,
        w: Refs,
        handed: Refs,
        starts: Ref,
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
        begin, count = self._first(), matrix(states).shape[0]
        weights = self._weights(w, begin)

        def step(passed: jax.Array, carried: tuple[Tree, ...]) -> tuple[Tree, ...]:
            dS, *sums = carried
            n = count - 1 - passed
            here = begin.chunk(n)
            fade = self.rule.fade(here.load_state(states, n), dS)
            chunk = self._chunk(here, x, weights, handed, starts, dS)
            given = self._given(here, do, dS)
            read = here.load_read(reads[0], matrix(dS).dtype) if reads else given
            both = known(self.rule, self.gates, chunk, dS, given, read, matrix(dS).dtype)
            part = here.of_both(share, self.rule.side)
            d = self.rule.back_keys(both.met, both.dscores, fade, dS, both.made.v, both.dy, part)
            for ref in dkeys:
                self._store_tokens(here, "keys", ref, d.k)
            dq = here.of_both(queries[0], "keys") if queries else None
            chunk = chunk._replace(x=self._inputs(here, x, matrix(dS).dtype, again=True))  # not to be held in between
            of_tokens, of_weights = gates_backward(self.gates, chunk, both, d, dq)
            for side, ref, value in zip(self.gates.x_sides, dx, of_tokens, strict=True):
                self._store_tokens(here, side, ref, value)
            more = zip(self.gates.w_sides, sums, of_weights, strict=True)
            return d.S, *(old + (z if side == "head" else jnp.sum(z, 0, keepdims=True)) for side, old, z in more)

        dS = begin.load_gradient(dlast)
        nothing = (self._nothing(side, matrix(dS)) for side in self.gates.w_sides)
        dS, *sums = jax.lax.fori_loop(0, count, step, (dS, *nothing))
        begin.store_state(dS0, dS)
        for side, ref, total in zip(self.gates.w_sides, dw, sums, strict=True):
            self._store_weight(begin, side, ref, total)

    def _given(self, here: _Place, do: Tree, S: Tree) -> Tree:
        """The gradient of what a chunk gives back."""
        if isinstance(do, Read):
            return Read(
                self._given(here, do.y, S), here.of_one_slice(load(do.norm.at[here.tokens], here.live)[:, None])
            )
        return tile(do, here.tokens, here.values, here.mask("values")).astype(matrix(S).dtype)

    def _first(self) -> _Place:
        """The first chunk of a program."""
        return _Place(
            self.sizes,
            first_slice=pl.program_id(2) == 0,
            tokens=jnp.arange(self.tile.tokens, dtype=jnp.int32),
            keys=jnp.arange(self.tile.keys, dtype=jnp.int32),
            values=pl.program_id(2) * self.tile.values + jnp.arange(self.tile.values, dtype=jnp.int32),
        )

    def _weights(self, w: Refs, here: _Place) -> Arrays:
        return tuple(here.of_head(z, side) for side, z in zip(self.gates.w_sides, w, strict=True))

    def _chunk(self, here: _Place, x: Refs, weights: Arrays, handed: Refs, starts: Ref, S: Tree) -> Chunk:
        keys = here.some("keys")
        return Chunk(
            x=self._inputs(here, x, matrix(S).dtype),
            w=weights,
            handed=tuple(tile(z, here.tokens, here.keys, here.mask("keys")) for z in handed),
            half=self.half,
            there=jnp.ones((self.tile.tokens, 1), bool) if here.live is None else here.live[:, None],
            some=None if keys is None else keys[None, :],
            documents=here.documents(starts),
        )

    def _inputs(self, here: _Place, x: Refs, dtype: jnp.dtype, again: bool = False) -> Arrays:
        sides = zip(self.gates.x_sides, x, strict=True)
        return tuple(here.of_tokens(z, side, again).astype(dtype) for side, z in sides)

    def _store_tokens(self, here: _Place, side: Side, ref: Ref, value: jax.Array) -> None:
        if side == "head":
            store(ref.at[here.tokens], jnp.sum(value, 1), here.live)
        else:
            store(ref.at[here.tokens[:, None], here.across(side)[None, :]], value, here.mask(side))

    def _store_read(self, here: _Place, refs: Tree, found: Tree) -> None:
        """What a chunk gives back; slices that share a normaliser write the same."""
        if isinstance(refs, Read):
            self._store_tokens(here, "head", refs.norm, found.norm)
            refs, found = refs.y, found.y
        self._store_tokens(here, "values", refs, found)

    def _nothing(self, side: Side, like: jax.Array) -> jax.Array:
        """A sum that grows: [1, slice], [1, K], or [Q, 1] by the place in a chunk."""
        shape = (self.tile.tokens, 1) if side == "head" else (1, self.tile.across(side))
        return jnp.zeros(shape, like.dtype)

    def _store_weight(self, here: _Place, side: Side, ref: Ref, total: jax.Array) -> None:
        if side == "head":
            ref[...] = jnp.sum(total, 0)
            return
        store(ref.at[here.across(side)], jnp.sum(total, 0), here.some(side))
