"""Keys or queries of a selective scan on a TPU: where the channels of a block find theirs, and what is summed for them.

Where all channels of a block are of one group, a token has a column [N, 1] for them. Where they are of several, a tile
of LANES channels has the rows of its groups, of each token, one behind the other: [groups N] lanes, from which a gather
inside of registers takes the value for every state and channel. Either gives back gradients as it reads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from kernels.blocks_tpu import LANES, ROWS, Ref, Refs, group
from kernels.selective_groups import Shared, rows_of
from kernels.tiles import array, up

ROOM = 2048  # lanes of the rows of a block: with their gradients 8 MiB of vector memory, for LANES tokens
Columns = Callable[[jax.Array], Callable[[int], jax.Array]]
"""(i)(k): the keys [N, 1] or [N, channels] of token k of the i-th ROWS tokens of a block."""
Adder = Callable[[jax.Array, int, jax.Array], None]
"""(i, k, product): takes what every channel gives to the gradient of the keys of that token, [N, channels]."""
Writer = Callable[[jax.Array], None]
"""(i): writes the gradients of these tokens, all of which have been taken."""


class Cut(NamedTuple):
    """How the grid cuts a scan: blocks of time, tokens and channels of a block, and which block of time comes t-th."""

    blocks: int
    block: int
    width: int
    at: Callable[[jax.Array], jax.Array]


@dataclass(frozen=True)
class OfGroup:
    """Keys [B, rows, N, T filled up] for blocks of channels that are of one of `count` groups."""

    count: int
    each: int
    shared: Shared

    def width(self, most: int) -> int:
        """Channels of a block: as many as may be, or what divides a group."""
        tiles = up(self.each, LANES) // LANES
        fitting = min(tiles, most // LANES)
        return LANES * (fitting if self.count == 1 else max(n for n in range(1, fitting + 1) if tiles % n == 0))

    def read(self, z: jax.Array, cut: Cut) -> tuple[jax.Array, pl.BlockSpec]:
        """What a kernel is given, and its blocks."""

        def index(b: jax.Array, c: jax.Array, t: jax.Array) -> tuple[Any, ...]:
            return b, self.shared.row(jax.lax.div(c * cut.width, c * 0 + self.each)), 0, cut.at(t)

        return z, pl.BlockSpec((1, None, z.shape[2], z.shape[3] // cut.blocks), index)

    def part(self, z: jax.Array, cut: Cut, acc: jnp.dtype) -> tuple[jax.ShapeDtypeStruct, pl.BlockSpec]:
        """The gradients that a kernel writes, by block of channels, and their blocks."""
        batch, _, states, time = z.shape
        blocks = self.count * (up(self.each, cut.width) // cut.width)
        spec = pl.BlockSpec((1, None, states, time // cut.blocks), lambda b, c, t: (b, c, 0, cut.at(t)))
        return array((batch, blocks, states, time), acc), spec

    def held(self, z: jax.Array, cut: Cut, acc: jnp.dtype) -> Any:
        """Memory for the gradients of a block."""
        return pltpu.VMEM((z.shape[2], z.shape[3] // cut.blocks), acc)

    def added(self, z: jax.Array, parts: jax.Array) -> jax.Array:
        """The gradient of z from those of all blocks, in one order."""
        by_group = parts.reshape(parts.shape[0], self.count, -1, *parts.shape[2:]).sum(2)
        return self.shared.added(by_group).astype(z.dtype)

    def columns(self, z: Ref, left: jax.Array, width: int, acc: jnp.dtype) -> Columns:
        """The keys of the tokens of a block of time, of which `left` are there."""

        def of(i: jax.Array) -> Callable[[int], jax.Array]:
            turned = pltpu.roll(z[0], z.shape[2] - i * ROWS, 1)  # the tokens in front
            return lambda k: turned[:, k : k + 1]

        return of

    def adder(self, held: Ref, width: int) -> Adder:
        """Adds the gradients of a token to those of the block."""
        lane = jax.lax.broadcasted_iota(jnp.int32, held.shape, 1)

        def add(i: jax.Array, k: int, product: jax.Array) -> None:
            held[...] = jnp.where(lane == i * ROWS + k, product.sum(1, keepdims=True), held[...])

        return add

    def writer(self, dz: Ref, held: Ref) -> Writer:
        """Writes the gradients of all tokens so far, which are held anyway."""

        def write(i: jax.Array) -> None:
            dz[0] = held[...]

        return write


@dataclass(frozen=True)
class OfGroups:
    """Keys [B, T, rows, N] for blocks of channels that are of several of `count` groups of `each`."""

    count: int
    each: int
    states: int
    shared: Shared

    @property
    def lanes(self) -> int:
        """Those of the rows that a tile of channels reads."""
        return lanes_of(self.each, self.states)

    @property
    def tiles(self) -> int:
        """How many tiles the channels take."""
        return up(self.count * self.each, LANES) // LANES

    @property
    def alike(self) -> Shared | None:
        """Which tiles read the same lanes of rows as they lie in memory; None if tiles do not end where rows do."""
        whole = LANES % self.each == 0 and _met(self.each) * self.states == self.lanes
        if not whole or self.count * self.each % LANES > 0:
            return None
        if self.shared.groups == 1:
            return self.shared
        apart, more = divmod(self.shared.apart * self.each, LANES)
        return None if more else Shared(self.shared.groups, apart)

    def width(self, most: int) -> int:
        """Channels of a block."""
        return LANES * min(self.tiles, most // LANES, ROOM // self.lanes)

    def read(self, z: jax.Array, cut: Cut) -> tuple[tuple[jax.Array, ...], tuple[pl.BlockSpec, ...]]:
        """What a kernel is given, once for each tile of a block, and their blocks."""
        shared, several = self.alike or Shared(1, 1), cut.width // LANES
        if self.alike is None:
            rows = z[:, :, self._rows()].reshape(*z.shape[:2], self.tiles, -1)
            z = jnp.pad(rows, (*((0, 0),) * 3, (0, self.lanes - rows.shape[-1])))

        def of(tile: int) -> pl.BlockSpec:
            def index(b: jax.Array, c: jax.Array, t: jax.Array) -> tuple[Any, ...]:
                return b, cut.at(t), shared.row(jnp.minimum(c * several + tile, self.tiles - 1))

            return pl.BlockSpec((1, cut.block, self.lanes), index)

        return (z.reshape(*z.shape[:2], -1),) * several, tuple(map(of, range(several)))

    def part(self, z: jax.Array, cut: Cut, acc: jnp.dtype) -> tuple[jax.ShapeDtypeStruct, pl.BlockSpec]:
        """The gradients that a kernel writes, by tile of channels, and their blocks."""
        spec = pl.BlockSpec((1, cut.block, cut.width // LANES * self.lanes), lambda b, c, t: (b, cut.at(t), c))
        return array((*z.shape[:2], self.tiles * self.lanes), z.dtype if self._complete else acc), spec

    def held(self, z: jax.Array, cut: Cut, acc: jnp.dtype) -> Any:
        """Memory for what the channels of ROWS tokens give."""
        return pltpu.VMEM((ROWS * up(self.states, 8), cut.width), acc)

    def added(self, z: jax.Array, parts: jax.Array) -> jax.Array:
        """The gradient of z from those of all tiles, in one order."""
        if self._complete:
            return parts.reshape(z.shape)
        by_tile = parts.reshape(*z.shape[:2], self.tiles, self.lanes)
        if self.alike is not None:
            return self.alike.added(by_tile.swapaxes(1, 2)).swapaxes(1, 2).reshape(z.shape).astype(z.dtype)
        rows = self._rows()
        by_group = by_tile[..., : rows.shape[1] * self.states].reshape(*z.shape[:2], *rows.shape, -1)
        return jnp.zeros(z.shape, parts.dtype).at[:, :, rows].add(by_group).astype(z.dtype)

    def columns(self, z: Refs, left: jax.Array, width: int, acc: jnp.dtype) -> Columns:
        """The keys of the tokens of a block of time, of which `left` are there."""
        places = [self._places(passed) for passed in self._passed(width)]

        def of(i: jax.Array) -> Callable[[int], jax.Array]:
            at, live = group(i, left, self.lanes)
            rows = [jnp.where(live, tile[0, at, :].astype(acc), 0) for tile in z]
            return lambda k: jnp.concatenate(
                [self._gathered(row[k : k + 1], place) for row, place in zip(rows, places, strict=True)], 1
            )

        return of

    def adder(self, held: Ref, width: int) -> Adder:
        """Keeps the gradients of a token until they are written."""

        def add(i: jax.Array, k: int, product: jax.Array) -> None:
            held[pl.ds(k * up(self.states, 8), self.states), :] = product

        return add

    def writer(self, dz: Ref, held: Ref) -> Writer:
        """Adds up the gradients of ROWS tokens over the channels of each group, and writes them."""
        members = [self._members(passed) for passed in self._passed(held.shape[1])]

        def write(i: jax.Array) -> None:
            at = pl.ds(pl.multiple_of(i * ROWS, ROWS), ROWS)
            for tile, ones in enumerate(members):
                sums = _exact(held[:, tile * LANES : (tile + 1) * LANES], ones).reshape(ROWS, -1, self.lanes)
                state, lane = (jax.lax.broadcasted_iota(jnp.int32, sums.shape, axis) for axis in (1, 2))
                mine = jax.lax.rem(lane, lane * 0 + self.states) == state
                dz[0, at, pl.ds(tile * self.lanes, self.lanes)] = jnp.where(mine, sums, 0).sum(1).astype(dz.dtype)

        return write

    def _members(self, passed: jax.Array | int) -> jax.Array:
        """Ones where a channel of a tile is of the group of a lane of its rows, [LANES, lanes]."""
        channel, lane = (jax.lax.broadcasted_iota(jnp.int32, (LANES, self.lanes), axis) for axis in (0, 1))
        mine = jax.lax.div(channel + passed, channel * 0 + self.each)
        return (mine == jax.lax.div(lane, lane * 0 + self.states)).astype(jnp.bfloat16)

    @property
    def _complete(self) -> bool:
        """Whether every row is read by a single tile."""
        return self.alike is not None and self.shared.groups == 1

    def _rows(self) -> jax.Array:
        """The rows of the groups that each tile has channels of, [tiles, groups]."""
        first = jnp.arange(self.tiles)[:, None] * LANES // self.each
        return self.shared.row(jnp.minimum(first + jnp.arange(_met(self.each)), self.count - 1))

    def _passed(self, width: int) -> list[jax.Array | int]:
        """For each tile of a block how many channels of its first group are in tiles before it."""
        if LANES % self.each == 0:
            return [0] * (width // LANES)
        start = pl.program_id(1) * width
        return [jax.lax.rem(start + n * LANES, start * 0 + self.each) for n in range(width // LANES)]

    def _places(self, passed: jax.Array | int) -> jax.Array:
        """Where among the lanes of its rows a tile finds the values of [N, channel]."""
        state, lane = (jax.lax.broadcasted_iota(jnp.int32, (self.states, LANES), axis) for axis in (0, 1))
        group = jax.lax.div(lane + passed, lane * 0 + self.each)
        return jnp.minimum(group * self.states + state, self.lanes - 1)

    def _gathered(self, row: jax.Array, place: jax.Array) -> jax.Array:
        """The values at these places of a row, [N, LANES]."""
        found = jnp.zeros(place.shape, row.dtype)
        for n in range(self.lanes // LANES):
            part = jnp.broadcast_to(row[:, n * LANES : (n + 1) * LANES], place.shape)
            taken = jnp.take_along_axis(part, place & (LANES - 1), 1, mode="promise_in_bounds")
            here = (place >= n * LANES) & (place < (n + 1) * LANES)
            found = taken if self.lanes == LANES else jnp.where(here, taken, found)
        return found


Keys = OfGroup | OfGroups


def keys_of(z: jax.Array, axes: tuple[int, ...], time: int, acc: jnp.dtype) -> tuple[jax.Array, Keys]:
    """Keys [B, T, N], or [B, T, *groups, N] with the first of the axes, laid out, and how kernels read them.

    time: T filled up to whole blocks and LANES.
    """
    count, each = _groups(z, axes)
    z, shared = rows_of(z, axes[: z.ndim - 3])
    if count == 1 or each % LANES == 0:
        filled = jnp.pad(z.astype(acc), ((0, 0), (0, time - z.shape[1]), (0, 0), (0, 0)))
        return filled.transpose(0, 2, 3, 1), OfGroup(count, each, shared)
    return z, OfGroups(count, each, z.shape[-1], shared)


def fits(z: jax.Array, axes: tuple[int, ...]) -> bool:
    """Whether the rows that a tile of channels reads fit into vector memory."""
    count, each = _groups(z, axes)
    return count == 1 or each % LANES == 0 or lanes_of(each, z.shape[-1]) <= ROOM


def lanes_of(each: int, states: int) -> int:
    """Lanes of the rows that a tile of channels reads, if so many channels are of one group."""
    return up(_met(each) * states, LANES)


def _groups(z: jax.Array, axes: tuple[int, ...]) -> tuple[int, int]:
    """How many groups of channels keys [B, T, *groups, N] have, and how many channels each."""
    return math.prod(axes[: z.ndim - 3]), math.prod(axes[z.ndim - 3 :])


def _met(each: int) -> int:
    """The most groups of so many channels that a tile has channels of."""
    return LANES // each if LANES % each == 0 else (LANES + each - 2) // each + 1


def _exact(x: jax.Array, ones: jax.Array) -> jax.Array:
    """x @ ones, which has but zeros and ones: a number in single precision is the sum of three in half."""
    if x.dtype != jnp.float32:  # double, which the interpreter alone has
        return jnp.dot(x, ones.astype(x.dtype))
    high = x.astype(jnp.bfloat16)
    low = x - high.astype(x.dtype)
    middle = low.astype(jnp.bfloat16)
    parts = high, middle, (low - middle.astype(x.dtype)).astype(jnp.bfloat16)
    return sum((jnp.dot(part, ones, preferred_element_type=x.dtype) for part in parts), start=jnp.zeros((), x.dtype))
