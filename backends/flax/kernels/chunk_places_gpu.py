"""Where the tokens, keys and values of a program are in the memory of a GPU: masked tiles of its chunks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from kernels.blocks_gpu import Ref, Tree, load, store, tile
from kernels.chunk import Documents, square
from kernels.chunk_gates import Sizes
from kernels.normalised_chunk import Read, State, matrix
from kernels.tiles import Side


class Place(NamedTuple):
    """The tokens of a chunk, the keys and values of a program, and which of them there are; whether its slice of the
    values is the first.
    """

    sizes: Sizes
    first_slice: jax.Array
    tokens: jax.Array
    keys: jax.Array
    values: jax.Array

    def chunk(self, n: jax.Array | int) -> "Place":
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
        """The mask of [slice, K]."""
        return _product(self.some("values"), self.some("keys"), (self.values.shape[0], self.keys.shape[0]))

    def load_state(self, refs: Tree, *chunk: jax.Array) -> Tree:
        """The slice of a state [slice, K], and with a normaliser the sums of all keys [1, K]; copies of other values
        where there are none, as of the tokens, for something may be divided by what is read.
        """
        if isinstance(refs, State):
            return State(self.load_state(refs.S, *chunk), self._load_sums(refs, *chunk))
        mask = _product(None, self.some("keys"), (self.values.shape[0], self.keys.shape[0]))
        return load(refs.at[(*chunk, self._near("values")[:, None], self.keys[None, :])], mask)

    def load_gradient(self, refs: Tree) -> Tree:
        """That of a state, zero where there are no values."""
        if isinstance(refs, State):
            return State(self.load_gradient(refs.S), self.of_one_slice(self._load_sums(refs)))
        return tile(refs, self.values, self.keys, self.of_states)

    def _load_sums(self, refs: State, *chunk: jax.Array) -> jax.Array:
        return load(refs.sums.at[(*chunk, self.keys)], self.some("keys"))[None, :]

    def store_state(self, refs: Tree, S: Tree, *chunk: jax.Array) -> None:
        """Slices that share the sums of the keys write the same."""
        if isinstance(refs, State):
            store(refs.sums.at[(*chunk, self.keys)], jnp.sum(S.sums, 0), self.some("keys"))
        place = (*chunk, self.values[:, None], self.keys[None, :])
        store(matrix(refs).at[place], matrix(S), self.of_states)

    def of_one_slice(self, gradient: jax.Array) -> jax.Array:
        """The gradient of what slices share comes in through the first, for what they give back is added up."""
        return jnp.where(self.first_slice, gradient, 0)

    def load_given(self, refs: Tree, dtype: jnp.dtype) -> Tree:
        """The gradient of what a chunk gives back, zero where there is no token or value."""
        if isinstance(refs, Read):
            norm = self.of_one_slice(load(refs.norm.at[self.tokens], self.live)[:, None])
            return Read(self.load_given(refs.y, dtype), norm)
        return tile(refs, self.tokens, self.values, self.mask("values")).astype(dtype)

    def store_read(self, refs: Tree, found: Tree) -> None:
        """What a chunk gives back; slices that share a normaliser write the same."""
        if isinstance(refs, Read):
            self.store_tokens("head", refs.norm, found.norm)
            refs, found = refs.y, found.y
        self.store_tokens("values", refs, found)

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

    def store_tokens(self, side: Side, ref: Ref, value: jax.Array) -> None:
        """What every head has of its own."""
        if side == "head":
            store(ref.at[self.tokens], jnp.sum(value, 1), self.live)
        else:
            store(ref.at[self.tokens[:, None], self.across(side)[None, :]], value, self.mask(side))

    def of_head(self, ref: Ref, side: Side) -> jax.Array:
        """A weight [1, slice], [1, K] or [1, 1]."""
        return ref[...][None, :] if side == "head" else plgpu.load(ref.at[self._near(side)])[None, :]

    def store_head(self, side: Side, ref: Ref, total: jax.Array) -> None:
        """The gradient of a weight, from its sum by the place in a chunk or over all tokens."""
        if side == "head":
            ref[...] = jnp.sum(total, 0)
        else:
            store(ref.at[self.across(side)], jnp.sum(total, 0), self.some(side))

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
        last, start, place = last_of(start), start[:, None], place[:, None]
        return Documents((lane <= row) & (lane >= start), start < 0, place >= last, last < 0, start == place)


def last_of(x: jax.Array) -> jax.Array:
    """The last element of [n], as a number that no tile has: what it is multiplied with keeps its layout."""
    return jnp.sum(jnp.where(jnp.arange(x.shape[0]) == x.shape[0] - 1, x, 0))


def first_chunk(sizes: Sizes, tile: Sizes) -> Place:
    """The first chunk of a program, whose slice of the values is the third axis of the grid."""
    return Place(
        sizes,
        first_slice=pl.program_id(2) == 0,
        tokens=jnp.arange(tile.tokens, dtype=jnp.int32),
        keys=jnp.arange(tile.keys, dtype=jnp.int32),
        values=pl.program_id(2) * tile.values + jnp.arange(tile.values, dtype=jnp.int32),
    )


def _product(rows: jax.Array | None, lanes: jax.Array | None, shape: tuple[int, int]) -> jax.Array | None:
    """The mask of a tile; None if all of it is there."""
    if rows is None:
        return None if lanes is None else jnp.broadcast_to(lanes[None, :], shape)
    return jnp.broadcast_to(rows[:, None], shape) if lanes is None else rows[:, None] & lanes[None, :]
