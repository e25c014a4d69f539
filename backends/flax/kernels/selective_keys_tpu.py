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

MOST = 2048  # lanes of the rows of a block: with their gradients 8 MiB of vector memory, for LANES tokens
Columns = Callable[[jax.Array], Callable[[int], jax.Array]]
"""From ROWS tokens and the place of one among them to its keys, [N, 1] or [N, channels]."""
Adder = Callable[[jax.Array, int, jax.Array], None]
"""Takes ROWS tokens, the place of one among them, and what its channels give to its keys' gradient [N, channels]."""


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
            of = self.shared.row(jax.lax.div(c * cut.width, c * 0 + self.each)) if self.count > 1 else 0
            return b, of, 0, cut.at(t)

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
        """What adds the gradients of a token to those of the block."""
        lane = jax.lax.broadcasted_iota(jnp.int32, held.shape, 1)

        def add(i: jax.Array, k: int, product: jax.Array) -> None:
            held[...] = jnp.where(lane == i * ROWS + k, product.sum(1, keepdims=True), held[...])

        return add

    def store(self, dz: Ref, held: Ref, i: jax.Array) -> None:
        """Writes the gradients of ROWS tokens, all of which have been added."""
        dz[0] = held[...]


@dataclass(frozen=True)
class OfGroups:
    """Keys [B, T, tiles of rows lanes] for blocks of channels that are of several groups of `each`, which are `states`
    values a row; shared: which of the `tiles` of channels read the same lanes.
    """

    tiles: int
    each: int
    states: int
    lanes: int
    shared: Shared

    def width(self, most: int) -> int:
        """Channels of a block."""
        return LANES * min(self.tiles, most // LANES, MOST // self.lanes)

    def read(self, z: jax.Array, cut: Cut) -> tuple[tuple[jax.Array, ...], tuple[pl.BlockSpec, ...]]:
        """What a kernel is given, once for each tile of a block, and their blocks."""
        several = cut.width // LANES

        def of(tile: int) -> pl.BlockSpec:
            def index(b: jax.Array, c: jax.Array, t: jax.Array) -> tuple[Any, ...]:
                return b, cut.at(t), self.shared.row(jnp.minimum(c * several + tile, self.tiles - 1))

            return pl.BlockSpec((1, cut.block, self.lanes), index)

        return (z,) * several, tuple(map(of, range(several)))

    def part(self, z: jax.Array, cut: Cut, acc: jnp.dtype) -> tuple[jax.ShapeDtypeStruct, pl.BlockSpec]:
        """The gradients that a kernel writes, by tile of channels, and their blocks."""
        spec = pl.BlockSpec((1, cut.block, cut.width // LANES * self.lanes), lambda b, c, t: (b, cut.at(t), c))
        return array((*z.shape[:2], self.tiles * self.lanes), z.dtype if self.shared.groups == 1 else acc), spec

    def held(self, z: jax.Array, cut: Cut, acc: jnp.dtype) -> Any:
        """Memory for the gradients of ROWS tokens."""
        return pltpu.VMEM((ROWS, cut.width // LANES * self.lanes), acc)

    def added(self, z: jax.Array, parts: jax.Array) -> jax.Array:
        """The gradient of z from those of all tiles, in one order."""
        if self.shared.groups == 1:
            return parts
        by_tile = parts.reshape(*parts.shape[:2], self.tiles, self.lanes).swapaxes(1, 2)
        return self.shared.added(by_tile).swapaxes(1, 2).reshape(z.shape).astype(z.dtype)

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
        """What adds up the gradients of a token by group."""
        found = [(self._steps(passed), self._firsts(passed)) for passed in self._passed(width)]

        def add(i: jax.Array, k: int, product: jax.Array) -> None:
            for tile, (steps, firsts) in enumerate(found):
                sums = product[:, tile * LANES : (tile + 1) * LANES]
                for step, same in steps:
                    sums = sums + jnp.where(same, pltpu.roll(sums, LANES - step, 1), 0)
                for n, (first, mine) in enumerate(firsts):
                    row = jnp.where(mine, _take(sums, first), 0).sum(0, keepdims=True)
                    held[pl.ds(k, 1), pl.ds(tile * self.lanes + n * LANES, LANES)] = row

        return add

    def store(self, dz: Ref, held: Ref, i: jax.Array) -> None:
        """Writes the gradients of ROWS tokens, all of which have been added."""
        dz[0, pl.ds(pl.multiple_of(i * ROWS, ROWS), ROWS), :] = held[...].astype(dz.dtype)

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
            taken = _take(part, place & (LANES - 1))
            found = taken if self.lanes == LANES else jnp.where(jax.lax.div(place, place * 0 + LANES) == n, taken, found)
        return found

    def _steps(self, passed: jax.Array | int) -> list[tuple[int, jax.Array]]:
        """Distances at which sums grow, and which channels are of the same group as that at such a distance."""
        lane = jax.lax.broadcasted_iota(jnp.int32, (self.states, LANES), 1)
        inner = jax.lax.rem(lane + passed, lane * 0 + self.each)
        steps = (1 << n for n in range((min(self.each, LANES) - 1).bit_length()))
        return [(step, (inner + step < self.each) & (lane + step < LANES)) for step in steps]

    def _firsts(self, passed: jax.Array | int) -> list[tuple[jax.Array, jax.Array]]:
        """For each LANES of the rows the channel that has the sums of its group, and where [N, lane] its state is."""
        state, lane = (jax.lax.broadcasted_iota(jnp.int32, (self.states, LANES), axis) for axis in (0, 1))
        found = []
        for n in range(self.lanes // LANES):
            place = lane + n * LANES
            group = jax.lax.div(place, lane * 0 + self.states)
            first = jnp.maximum(group * self.each - passed, 0)
            mine = (place - group * self.states == state) & (first < LANES)
            found.append((jnp.minimum(first, LANES - 1), mine))
        return found


Keys = OfGroup | OfGroups


def keys_of(z: jax.Array, axes: tuple[int, ...], time: int, acc: jnp.dtype) -> tuple[jax.Array, Keys]:
    """Keys [B, T, N], or [B, T, *groups, N] with the first of the axes, laid out, and how kernels read them.

    time: T filled up to whole blocks and LANES.
    """
    groups, states = axes[: z.ndim - 3], z.shape[-1]
    count, each = math.prod(groups), math.prod(axes[len(groups) :])
    z, shared = rows_of(z, groups)
    if count == 1 or each % LANES == 0:
        filled = jnp.pad(z.astype(acc), ((0, 0), (0, time - z.shape[1]), (0, 0), (0, 0)))
        return filled.transpose(0, 2, 3, 1), OfGroup(count, each, shared)
    lanes, tiles = lanes_of(each, states), up(count * each, LANES) // LANES
    filled = LANES % each == 0 and LANES // each * states == lanes and count * each == tiles * LANES
    if filled and (shared.groups == 1 or shared.apart * each % LANES == 0):
        shared = Shared(shared.groups, max(1, shared.apart * each // LANES))
    else:
        first = jnp.arange(tiles)[:, None] * LANES // each
        met = jnp.minimum(first + jnp.arange(_met(each)), count - 1)
        z = z[:, :, shared.row(met)].reshape(*z.shape[:2], tiles, -1)
        z, shared = jnp.pad(z, ((0, 0), (0, 0), (0, 0), (0, lanes - z.shape[-1]))), Shared(1, 1)
    return z.reshape(*z.shape[:2], -1), OfGroups(tiles, each, states, lanes, shared)


def fits(z: jax.Array, axes: tuple[int, ...]) -> bool:
    """Whether the rows that a tile of channels reads fit into vector memory."""
    each = math.prod(axes[z.ndim - 3 :])
    return each % LANES == 0 or z.shape[2:-1] == () or lanes_of(each, z.shape[-1]) <= MOST


def lanes_of(each: int, states: int) -> int:
    """Lanes of the rows that a tile of channels reads, if so many channels are of one group."""
    return up(_met(each) * states, LANES)


def _met(each: int) -> int:
    """The most groups of so many channels that a tile has channels of."""
    return LANES // each if LANES % each == 0 else (LANES + each - 2) // each + 1


def _take(x: jax.Array, lanes: jax.Array) -> jax.Array:
    """x[n, lanes[n, c]] of one tile."""
    return jnp.take_along_axis(x, lanes, 1, mode="promise_in_bounds")
