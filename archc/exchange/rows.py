"""Which tensors of another library are which of ours: rows of data, and the moves between the two that they mean.

A row names a tensor of theirs and, for each of ours in it, our name and its axes as theirs has them: axes of one
dimension side by side, a comma between dimensions, 1 for one that ours has not.

    "self_attn.q_proj.weight" = "attention.W_q [kv group dim, width]"
    "mixer.in_proj.weight" = ["ssm.W_u [inner, width]", "ssm.W_z [inner, width]"]
    "attention.qkv.bias" = ["attention.b_q [heads + dim]", "attention.b_k [heads + dim]"]
    "experts.{experts}.down.weight" = "moe.W_down [width, hidden]"

Several of ours lie behind one another along the first dimension, or, where there is a `+`, along what follows it within
its dimension. An axis in braces is counted in the names of theirs. Without brackets the axes are ours. A row of `[]` is
none: what another file says of the name, this library has not. Every move is a rearrangement: no bit changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from archc.exchange.safetensors import Bits
from archc.ir.graph import Graph, Weight

_PART = re.compile(r"([\w.]+)(?:\s*\[(.*)\])?")
_COUNTED = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Part:
    """One of our weights in a tensor of theirs: the axes of theirs by dimension, None where they are ours.

    `joined`: the dimension along which parts lie behind one another; `outer`: how many axes stand before the `+`.
    """

    ours: str
    dimensions: tuple[tuple[str, ...], ...] | None = None
    joined: int = 0
    outer: int = 0


@dataclass(frozen=True)
class Row:
    """A tensor of theirs and what of ours it holds; `counted`: an axis of ours that its name counts."""

    theirs: str
    parts: tuple[Part, ...]
    counted: str = ""


def read_row(theirs: str, parts: str | Sequence[str]) -> Row:
    """A row of the data.

    >>> read_row("conv.weight", "ssm.w_conv [inner, 1, taps]").parts[0].dimensions
    (('inner',), ('1',), ('taps',))
    """
    counted = _COUNTED.search(theirs)
    texts = [parts] if isinstance(parts, str) else parts
    return Row(theirs, tuple(map(_part, texts)), counted[1] if counted else "")


def _part(text: str) -> Part:
    found = _PART.fullmatch(text)
    assert found, f"'{text}' is no part of a tensor"
    if found[2] is None:
        return Part(found[1])
    before, plus, _ = found[2].partition("+")
    dimensions = tuple(tuple(d.replace("+", " ").split()) for d in found[2].split(","))
    if not plus:
        return Part(found[1], dimensions)
    return Part(found[1], dimensions, before.count(","), len(before.replace(",", " ").split()))


@dataclass(frozen=True)
class Piece:
    """Where one of our weights lies in a tensor of theirs, seen as [outer, joined, rest]: `length` from `start` on.

    `whole`: the sizes of all of its axes, in our order. `axes` are those that theirs has, in the order of theirs, as
    indices of ours; `sizes` theirs in that order. `at`: the one index along an axis that theirs has not, (axis, index).
    """

    ours: str
    start: int
    length: int
    whole: tuple[int, ...]
    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    at: tuple[int, int] | None

    def of(self, weight: Bits) -> Bits:
        """What it is of our weight, however that merges its axes: a view with the axes that theirs has."""
        axes = weight.reshape(self.whole)
        return axes if self.at is None else np.moveaxis(axes, self.at[0], 0)[self.at[1]]


@dataclass(frozen=True)
class Move:
    """One tensor of theirs, whole: its name, its shape, as [outer, joined, rest], and our weights in it."""

    theirs: str
    shape: tuple[int, ...]
    view: tuple[int, int, int]
    pieces: tuple[Piece, ...]

    def to_ours(self, theirs: Bits) -> Iterator[tuple[Piece, Bits]]:
        """Our weights, axis by axis, or what `Piece.of` is of them: views of the tensor where that can be."""
        seen = theirs.reshape(self.view)
        for p in self.pieces:
            yield p, seen[:, p.start : p.start + p.length].reshape(p.sizes).transpose(np.argsort(p.axes))

    def to_theirs(self, ours: Callable[[str], Bits]) -> Bits:
        """The tensor, from our weights by name."""
        outer, _, rest = self.view
        parts = [p.of(ours(p.ours)).transpose(p.axes).reshape(outer, p.length, rest) for p in self.pieces]
        return (parts[0] if len(parts) == 1 else np.concatenate(parts, 1)).reshape(self.shape)


def moves(graph: Graph, outer: Iterable[Row], layers: Iterable[Row], prefix: str) -> tuple[Move, ...]:
    """Every tensor that theirs has of a model: `outer` rows by full names, `layers` behind `prefix` and a number.

    A row whose weights a layer (or the model) has not is none of its tensors. Raises AssertionError if the data leaves
    a weight out or names it twice.
    """
    weights = graph.named_weights()
    depth = 1 + max((int(n.split(".")[1]) for n in weights if n.startswith("layers.")), default=-1)
    found = [move for row in outer for move in _moves(row, "", "", weights)]
    for i in range(depth):
        found += [move for row in layers for move in _moves(row, f"{prefix}.{i}.", f"layers.{i}.", weights)]
    named = [piece.ours for move in found for piece in move.pieces if piece.at is None or piece.at[1] == 0]
    assert sorted(named) == sorted(weights), f"the data and the spec differ: {sorted(set(named) ^ weights.keys())}"
    return tuple(found)


def _moves(row: Row, theirs: str, ours: str, weights: Mapping[str, Weight]) -> Iterator[Move]:
    """The tensors of a row in the model or one layer: none, one, or one for each index of the axis that is counted."""
    if not any(ours + part.ours in weights for part in row.parts):
        return
    if not row.counted:
        yield _move(row, theirs, ours, weights, None)
        return
    size = weights[ours + row.parts[0].ours].type.sizes[row.counted]
    for i in range(size):
        yield _move(row, theirs, ours, weights, i)


def _move(row: Row, theirs: str, ours: str, weights: Mapping[str, Weight], index: int | None) -> Move:
    pieces: list[Piece] = []
    start, outer, joined, shape = 0, 1, 0, list[int]()
    for part in row.parts:
        weight = weights[ours + part.ours]
        names, sizes = list(weight.type.names), weight.type.sizes
        at = None if index is None else (names.index(row.counted), index)
        own = [name for name in names if index is None or name != row.counted]
        dimensions = part.dimensions or tuple((name,) for name in own)
        order = [name for d in dimensions for name in d if name != "1"]
        assert sorted(order) == sorted(own), f"'{part.ours}' has the axes {own}, the data says {order}"
        shape = [prod(1 if name == "1" else sizes[name] for name in d) for d in dimensions]
        outer, joined = prod(sizes[name] for name in order[: part.outer]), part.joined
        length = prod(shape[: joined + 1]) // outer
        axes = tuple(own.index(name) for name in order)
        whole = tuple(sizes[n] for n in names)
        pieces.append(Piece(ours + part.ours, start, length, whole, axes, tuple(sizes[n] for n in order), at))
        start += length
    rest = prod(shape[joined + 1 :])
    shape = [*shape[:joined], outer * start // prod(shape[:joined]), *shape[joined + 1 :]] if shape else []
    name = theirs + (row.theirs if index is None else row.theirs.replace(f"{{{row.counted}}}", str(index)))
    return Move(name, tuple(shape), (outer, start, rest), tuple(pieces))
