"""What the reference computes, beside what the equations of a fused scan compute from the same values."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from archc.fuse.dag import FIRST
from archc.fuse.fused_scan import OUTER, PER_HEAD, PER_KEY, PER_VALUE, FusedScan
from archc.fuse.on_axes import Group
from archc.fuse.planes import Room
from archc.ir.graph import Axis, Graph, Kind, Operand, Value
from archc.ops.node import Node
from archc.passes.support import supports
from archc.reference import random_weights
from archc.reference.frame import Array, Frame, place
from archc.reference.rules import RULES

POS = np.array([[0, 1, 2, 3, 0, 1, 2, 0, 1, 2], [3, 4, 5, 6, 7, 8, 0, 0, 1, 2]])


def run(graph: Graph) -> Frame:
    """The values of the last layer that ran each region, after ten tokens of two packed sequences."""
    tokens = np.random.default_rng(3).integers(0, 11, POS.shape)
    frame = Frame(RULES, random_weights(graph), {"tokens": tokens}, POS, POS.shape[1], {}, supports=supports(graph))
    frame.run(graph.main)
    return frame


def on_tile(frame: Frame, value: Operand, fused: FusedScan, groups: tuple[Group, ...] = ()) -> Array:
    """The reference's array of a value as [B, T, *axes of the tile], size one where it has none."""
    if not isinstance(value, Value):
        return np.asarray(float(value))
    sizes = fused.scan.type.sizes
    own = tuple(a for group in groups or ((a,) for a in value.type.axes) for a in group)
    array = np.asarray(frame.values[value])
    array = array.reshape((*array.shape[: array.ndim - len(value.names)], *(a.size for a in own)))
    tile = tuple(Axis(n, sizes[n]) for n in (*fused.tile, *(n for n in fused.scan.names if n not in fused.tile)))
    array = place(array, replace(value.type, axes=own), Kind.TOKEN, tile)
    state = tuple(range(2 + len(fused.tile), 2 + len(tile)))
    return array.squeeze(state) if all(array.shape[i] == 1 for i in state) else array


def part_of(array: Array, part: str) -> Array:
    """The array itself, or one of the parts of complex numbers."""
    return {"re": np.real, "im": np.imag}[part](array) if part else array


def rooms_of(fused: FusedScan) -> dict[Room, tuple[int, ...]]:
    """The shapes of what a scan of outer products is handed, by what it is of."""
    sizes = fused.scan.type.sizes
    shape = (*POS.shape, *(sizes[n] for n in fused.tile))
    keys = prod(sizes[n] for n in fused.found.key)
    return {PER_VALUE: shape, PER_HEAD: (*shape[:-1], 1), PER_KEY: (*shape[:-1], keys)}


def leaves(frame: Frame, fused: FusedScan) -> dict[Node, Array]:
    """The arrays of all leaves of the equations."""
    assert fused.gates is not None
    nodes, handed = (*fused.gates.x, *fused.gates.w), (*fused.inputs, *fused.weights)
    if fused.normaliser is not None and fused.out is not None:
        nodes, handed = (*nodes, fused.out.x[-1]), (*handed, fused.normaliser)
    shape = (*POS.shape, *(fused.scan.type.sizes[n] for n in fused.tile))
    rooms = rooms_of(fused)
    found: dict[Node, Array] = {}
    for leaf, each in zip(nodes, handed, strict=True):
        array = part_of(on_tile(frame, each.value, fused, each.groups), each.part)
        room = fused.room(each) if fused.kind in OUTER else PER_VALUE
        array = array.squeeze(-2) if room == PER_KEY else array
        found[leaf] = np.broadcast_to(array, rooms.get(room, shape)).astype(np.float64)
    start = fused.gates.outputs[0].home.leaf(FIRST, truth=True)
    found[start] = (POS == 0).reshape(*POS.shape, *(1 for _ in fused.tile))
    return found
