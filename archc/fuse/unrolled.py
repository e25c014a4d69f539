"""Pairs as planes: what is computed from one pair value to another, heads together, every other axis by its indices.

Which axes are heads is found by following axes through the ops: an axis that is one with an axis of the pairs that
come in or go out is of the heads, every other one (a rank) is unrolled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod

from archc.fuse.dag import SPECIAL, Equations, new_nodes, ordered
from archc.fuse.planes import HEADS, KEYS, MATRIX, PAIR, QUERIES, Planes, Room
from archc.fuse.regions import own_name
from archc.ir.graph import Kind, Value
from archc.ops.node import Node
from archc.ops.support import EVERYWHERE, NOWHERE, Support
from archc.ops.table import OPS

MOST = 64
"""Planes that a kernel is handed at most: each is a load for every tile."""
SOURCE, SEED = SPECIAL + "a", SPECIAL + "d"
"""The pairs that come in, and the derivative by those that go out."""
PART_OF = {"queries": QUERIES, "keys": KEYS}
COMPLEX = ("complex", "real", "imag")
Index = tuple[int, ...]


class Outside(Exception):
    """Why a program is not of the class, as the end of a sentence."""


@dataclass(frozen=True)
class Handed:
    """A token, or a weight, that a kernel of composed heads is handed.

    `side`: the op by which a token is lifted, `queries` or `keys`; empty for a weight. `planes` are its axes that are
    unrolled, in its own order; `heads` what it calls the axes of the heads, each with its place among them; a matrix
    has `made` as well, the heads that it makes.
    """

    value: Value
    side: str
    planes: tuple[str, ...]
    heads: tuple[tuple[str, int], ...]
    made: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        """What it is called in the spec."""
        return own_name(self.value) or {"queries": "query", "keys": "key"}.get(self.side, "weight")

    @property
    def indices(self) -> tuple[Index, ...]:
        """Of every plane, in order."""
        sizes = self.value.type.sizes
        return tuple(product(*(range(sizes[n]) for n in self.planes)))

    @property
    def room(self) -> Room:
        """Along what its planes vary."""
        if self.made:
            return MATRIX
        return frozenset({HEADS} if self.heads else ()) | frozenset({PART_OF[self.side]} if self.side else ())


@dataclass(frozen=True, eq=False)
class Mixing:
    """What happens to pairs before or after the softmax: `result` as a function of `source`, of the planes of tokens
    and of those of weights. `heads` are the axes of the source, `names` what the spec calls nodes, `values` those of
    the graph that are computed on the way."""

    planes: Planes
    source: Node
    result: Node
    leaves: Mapping[tuple[Handed, Index], Node]
    names: Mapping[Node, str]
    heads: tuple[str, ...]
    values: frozenset[Value]

    @property
    def handed(self) -> tuple[Handed, ...]:
        """The tokens and weights that it reads, each once."""
        return tuple(dict.fromkeys(each for each, _ in self.leaves))

    def equations(self, handed: Sequence[Handed]) -> Equations:
        """The result, from the planes of these tokens and weights that it reads."""
        x = tuple(self.leaves[h, i] for h in handed for i in h.indices)
        return Equations((self.result,), x, (), (self.source,), dict(self.names))

    def gradient(self, handed: Sequence[Handed]) -> Equations:
        """Its derivatives by the pairs that come in and by those planes."""
        forward = self.equations(handed)
        seed = self.planes.leaf(SEED, PAIR)
        return self.planes.gradient(forward, seed, (self.source, *forward.x))


def mixing(source: Value, target: Value, hoisted: tuple[object, ...]) -> tuple[Mixing | None, tuple[str, ...]]:
    """What is computed from the pairs `source` to the pairs `target`, None if nothing is; and the axes of the target in
    the order of the heads.

    Weights computed where `hoisted` calls led are handed in as they are, those of called functions by their tensors.
    Raises `Outside` if a kernel of composed heads cannot compute it.
    """
    inside = _between(source, target)
    axes = _Axes(inside | {source})
    heads, order = _heads(axes, source, target)
    build = _Builder(source, inside, axes, heads, hoisted)
    found = build.at(target, {})
    if found.zero != NOWHERE:
        raise Outside("the composition adds something to the pairs that is not made of them")
    for node in ordered([found.node]):
        of_numbers = node.op == "where" and all(n.is_number() for n in node.args[1:])
        if of_numbers or (node.op == "pow" and node.args[0].is_number()):
            raise Outside("it makes numbers of a condition or of an exponent alone")  # of which precision and axes?
    if found.node is build.source:
        return None, order
    values = frozenset(v for v in inside if v.op not in PART_OF)
    return Mixing(build.planes, build.source, found.node, build.leaves, build.names, source.names, values), order


def _between(source: Value, target: Value) -> set[Value]:
    """The values that the target is computed from, without what the source and lifted tokens are made of."""
    out: set[Value] = set()
    todo = [target]
    while todo:
        value = todo.pop()
        if value in out or value is source:
            continue
        out.add(value)
        if value.kind is Kind.WEIGHT or value.op not in PART_OF:
            todo += value.operands
    return out


# --- axes --------------------------------------------------------------------------------------------

Axis = tuple[Value, str]


class _Axes:
    """Which axes of values are one, followed through ops: those of one name, or of the name that replaced another."""

    def __init__(self, values: set[Value]) -> None:
        self.parent: dict[Axis, Axis] = {}
        for value in values:
            old = {new: old for old, new in value.attrs["names"].items()} if value.op == "rename" else {}
            mine = [] if value.op in PART_OF else [v for v in value.operands if v in values]
            for operand in mine:
                for name in value.names:
                    if old.get(name, name) in operand.names:
                        self.join((value, name), (operand, old.get(name, name)))
            for name in mine[0].names if len(mine) > 1 else ():
                for other in mine[1:]:
                    if name in other.names:
                        self.join((mine[0], name), (other, name))

    def join(self, one: Axis, other: Axis) -> None:
        """The two are one from now on."""
        self.parent[self.of(*one)] = self.of(*other)

    def of(self, value: Value, name: str) -> Axis:
        """What stands for all axes that are one with this."""
        axis = (value, name)
        while axis in self.parent and self.parent[axis] != axis:
            axis = self.parent[axis]
        return axis


def _heads(axes: _Axes, source: Value, target: Value) -> tuple[dict[Axis, int], tuple[str, ...]]:
    """The place among the heads of every axis that is one, and the axes of the target in that order."""
    found = {axes.of(source, name): i for i, name in enumerate(source.names)}
    if len(source.names) != len(target.names):
        raise Outside("the number of axes of the heads changes")
    free = [i for i in range(len(source.names)) if i not in {found.get(axes.of(target, n)) for n in target.names}]
    for name in target.names:
        if axes.of(target, name) not in found:
            named = [i for i in free if source.names[i] == name]
            place = (named or free)[0]
            free.remove(place)
            found[axes.of(target, name)] = place
    order = sorted(target.names, key=lambda name: found[axes.of(target, name)])
    if any(source.type.sizes[a] != target.type.sizes[b] for a, b in zip(source.names, order, strict=True)):
        raise Outside("the number of heads changes")
    return found, tuple(order)


# --- planes ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Plane:
    """A node; where it is not 0 though the source is (`zero`), and in heads that are there only to fill up a tile, in
    which source, tokens and weights are 0 (`filled`): by the rules of support, `NOWHERE` or `EVERYWHERE`."""

    node: Node
    zero: Support = EVERYWHERE
    filled: Support = EVERYWHERE


@dataclass(eq=False)
class _Builder:
    """Planes made so far, by their value and the indices of its axes that are not heads."""

    start: Value
    inside: set[Value]
    axes: _Axes
    heads: Mapping[Axis, int]
    hoisted: tuple[object, ...]
    planes: Planes = field(default_factory=lambda: Planes(new_nodes()))
    leaves: dict[tuple[Handed, Index], Node] = field(default_factory=dict)
    names: dict[Node, str] = field(default_factory=dict)
    made: dict[tuple[Value, Index], _Plane] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.source = self.planes.leaf(SOURCE, PAIR)

    def places(self, value: Value) -> dict[str, int]:
        """The axes of a value that are heads, each with its place among them."""
        return {n: self.heads[self.axes.of(value, n)] for n in value.names if self.axes.of(value, n) in self.heads}

    def at(self, value: Value, indices: Mapping[str, int]) -> _Plane:
        """A plane of a value, at the indices of its axes that are not heads."""
        if value is self.start:
            return _Plane(self.source, NOWHERE, NOWHERE)
        key = (value, tuple(indices[n] for n in value.names if n in indices))
        if key not in self.made:
            self.made[key] = found = self._made(value, {n: i for n, i in indices.items() if n in value.names})
            if value.label and found.node.args:
                self.names.setdefault(found.node, "_".join([value.label, *map(str, key[1])]))
        return self.made[key]

    def _made(self, value: Value, indices: dict[str, int]) -> _Plane:
        if value.op in PART_OF:
            return self._handed(value.operands[0], value.op, value, indices)
        if value.kind is Kind.WEIGHT and (value.op == "weight" or value.origin.calls == self.hoisted):
            return self._handed(value, "", value, indices)
        flow = OPS[value.op].flow
        if value.op == "contract":
            return self._contract(value, indices)
        if value.op == "reduce" and value.attrs["fn"] in ("sum", "mean"):
            return self._reduce(value, indices)
        if value.op == "rename" or (flow in ("pointwise", "alias") and value.op not in COMPLEX):
            return self._element_wise(value, indices)
        raise Outside(f"{_called(value)} of {value.kind.word}s is no operation on pairs one by one")

    def _handed(self, token: Value, side: str, lift: Value, indices: Mapping[str, int]) -> _Plane:
        """A leaf."""
        if token.type.dtype != "real":
            raise Outside(f"{_called(token)} is made of {'positions' if token.op == 'pos' else 'no real numbers'}")
        places = tuple(self.places(lift).items())
        if len({place for _, place in places}) < len(places):
            raise Outside(f"{_called(token)} has the heads twice")
        if places and len(places) < len(self.start.names) and not side:
            raise Outside(f"{_called(token)} has some of the axes of the heads only")
        planes = tuple(n for n in token.names if n in indices)
        return self._leaf(Handed(token, side, planes, places), indices)

    def _leaf(self, handed: Handed, indices: Mapping[str, int]) -> _Plane:
        index = tuple(indices[n] for n in handed.planes)
        if (handed, index) not in self.leaves:
            alike = {each.value for each, _ in self.leaves if each.name == handed.name}
            alike.discard(handed.value)
            name = f"{handed.name}{len(alike) + 1}" if alike else handed.name
            if len(self.leaves) == MOST:
                raise Outside(f"tokens and weights would be more than {MOST} planes [heads]")
            self.leaves[handed, index] = self.planes.leaf("_".join([name, *map(str, index)]), handed.room)
        filled = NOWHERE if HEADS in handed.room else EVERYWHERE
        return _Plane(self.leaves[handed, index], EVERYWHERE, filled)

    def _element_wise(self, value: Value, indices: Mapping[str, int]) -> _Plane:
        old = {new: old for old, new in value.attrs["names"].items()} if value.op == "rename" else {}
        before = {old.get(n, n): i for n, i in indices.items()}
        parts = [self.at(a, _of(a, before)) if isinstance(a, Value) else None for a in value.args]
        nodes = [p.node if p is not None else float(a) for p, a in zip(parts, value.args, strict=True)]  # type: ignore[arg-type]
        support = OPS[value.op].support
        return _Plane(
            self.planes.nodes.apply(value.op, *nodes),
            support(value, tuple(None if p is None else p.zero for p in parts)),
            support(value, tuple(None if p is None else p.filled for p in parts)),
        )

    def _reduce(self, value: Value, indices: Mapping[str, int]) -> _Plane:
        (inner,) = value.operands
        over = value.attrs["over"]
        parts = [self.at(inner, _of(inner, at)) for at in self._unrolled(inner, over, indices)]
        found = self._total(value, [self._over_heads(value, over, (inner,), p) for p in parts])
        if value.attrs["fn"] == "sum":
            return found
        return _Plane(found.node / prod(inner.type.sizes[n] for n in over), found.zero, found.filled)

    def _contract(self, value: Value, indices: Mapping[str, int]) -> _Plane:
        left, right = value.operands
        over = value.attrs["over"]
        of_heads = [n for n in over if any(n in self.places(v) for v in (left, right))]
        parts = []
        for at in self._unrolled(left, over, indices, right):
            if of_heads and right.kind is Kind.WEIGHT and any(n not in over for n in self.places(right)):
                parts.append(self._mixed(left, right, over, at))
                continue
            one, other = self.at(left, _of(left, at)), self.at(right, _of(right, at))
            both = _Plane(one.node * other.node, one.zero.meet(other.zero), one.filled.meet(other.filled))
            parts.append(self._over_heads(value, over, (left, right), both))
            if not one.node.args and not other.node.args and parts[-1].node.args:
                names = (n.name.removeprefix(SPECIAL) for n in (one.node, other.node))
                self.names.setdefault(parts[-1].node, "_".join(names))
        return self._total(value, parts)

    def _mixed(self, left: Value, matrix: Value, over: Sequence[str], indices: Mapping[str, int]) -> _Plane:
        """Heads mixed by a matrix of weights."""
        places = self.places(matrix)
        taken, made = (tuple((n, i) for n, i in places.items() if (n in over) == is_over) for is_over in (True, False))
        count = len(self.start.names)
        if len(taken) < count or len(made) < count:
            raise Outside(f"{_called(matrix)} mixes some of the axes of the heads only")
        if matrix.op != "weight" and matrix.origin.calls != self.hoisted:
            raise Outside(f"{_called(matrix)} is computed from weights in another function")
        if len(places) < len(matrix.names):
            raise Outside(f"{_called(matrix)} is more than one matrix between heads")
        leaf = self._leaf(Handed(matrix, "", (), taken, made), indices)
        inner = self.at(left, _of(left, indices))
        return _Plane(self.planes.mixed(inner.node, leaf.node), inner.zero, NOWHERE)

    def _over_heads(self, value: Value, over: Sequence[str], operands: Sequence[Value], whole: _Plane) -> _Plane:
        """The sum over heads, if they are among the axes that are summed."""
        summed = {i for v in operands for n, i in self.places(v).items() if n in over}
        if not summed:
            return whole
        if len(summed) < len(self.start.names):
            raise Outside("it sums over some of the axes of the heads only")
        if whole.filled != NOWHERE:
            raise Outside("it sums something over heads that is not a multiple of what differs by head")
        if self.places(value):
            raise Outside("it mixes heads by a matrix of each token")
        return _Plane(self.planes.summed(whole.node, HEADS), whole.zero)

    def _total(self, value: Value, parts: Sequence[_Plane]) -> _Plane:
        out = parts[0]
        for part in parts[1:]:
            out = _Plane(out.node + part.node, out.zero.join(part.zero), out.filled.join(part.filled))
        return out

    def _unrolled(
        self, value: Value, over: Sequence[str], indices: Mapping[str, int], other: Value | None = None
    ) -> Iterator[dict[str, int]]:
        """Indices of the result together with every choice of those that are summed over."""
        sizes = (other.type.sizes if other is not None else {}) | value.type.sizes
        of_heads = {n for v in (value, other) if v is not None for n in self.places(v)}
        free = [n for n in over if n not in of_heads]
        if prod(sizes[n] for n in free) > MOST:
            axis = max(free, key=lambda n: sizes[n])
            raise Outside(f"the axis '{axis}' of {sizes[axis]} would be unrolled")
        for chosen in product(*(range(sizes[n]) for n in free)):
            yield {**indices, **dict(zip(free, chosen, strict=True))}


def _of(value: Value, indices: Mapping[str, int]) -> dict[str, int]:
    return {n: i for n, i in indices.items() if n in value.names}


def _called(value: Value) -> str:
    return f"'{own_name(value)}'" if own_name(value) else f"'{value.op}'"
