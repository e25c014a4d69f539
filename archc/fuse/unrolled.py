"""Pairs as planes: what is computed from one pair value to another, heads together, every other axis by its indices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod

from archc.fuse.axes import Axes, Place, heads_of
from archc.fuse.builder import own_name
from archc.fuse.dag import SPECIAL, makes_numbers, new_nodes
from archc.fuse.mixing import PART_OF, SOURCE, Handed, Index, Mixing, Outside
from archc.fuse.planes import HEADS, PAIR, Planes
from archc.ir.graph import Kind, Value
from archc.ops.node import Node
from archc.ops.support import EVERYWHERE, NOWHERE, Support
from archc.ops.table import OPS

MOST = 64
"""Planes that a kernel is handed at most: each is a load for every tile."""
COMPLEX = ("complex", "real", "imag")


def mixing(source: Value, target: Value, hoisted: tuple[object, ...]) -> tuple[Mixing | None, tuple[str, ...]]:
    """What is computed from the pairs `source` to the pairs `target`, None if nothing is; and the axes of the target in
    the order of the heads.

    Weights computed where `hoisted` calls led are handed in as they are, those of called functions by their tensors.
    Raises `Outside` if a kernel of composed heads cannot compute it.
    """
    inside = _between(source, target)
    axes = Axes(inside | {source})
    heads, order = heads_of(axes, source, target)
    build = _Builder(source, inside, axes, heads, hoisted)
    found = build.at(target, {})
    if found.zero != NOWHERE:
        raise Outside("the composition adds something to the pairs that is not made of them")
    if makes_numbers([found.node]):
        raise Outside("it makes numbers of a condition or of an exponent alone")
    if found.node is build.source:
        return None, order
    values = frozenset(v for v in inside if v.op not in PART_OF)
    return Mixing(build.planes, build.source, found.node, build.leaves, build.names, source.type.axes, values), order


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
    axes: Axes
    heads: Mapping[Place, int]
    hoisted: tuple[object, ...]
    planes: Planes = field(default_factory=lambda: Planes(new_nodes()))
    leaves: dict[tuple[Handed, Index], Node] = field(default_factory=dict)
    names: dict[Node, str] = field(default_factory=dict)
    made: dict[tuple[Value, Index], _Plane] = field(default_factory=dict)
    titles: dict[Handed, str] = field(default_factory=dict)

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
        own = bool(side) and lift.origin.calls == self.hoisted
        if places and len(places) < len(self.start.names) and not own:
            raise Outside(f"{_called(token)} has some of the axes of the heads only")
        planes = tuple(n for n in token.names if n in indices)
        return self._leaf(Handed(token, side, planes, places), indices)

    def _leaf(self, handed: Handed, indices: Mapping[str, int]) -> _Plane:
        index = tuple(indices[n] for n in handed.planes)
        if (handed, index) not in self.leaves:
            if len(self.leaves) == MOST:
                raise Outside(f"tokens and weights would be more than {MOST} planes")
            name = "_".join([self.title(handed), *map(str, index)])
            while name in {leaf.name for leaf in self.leaves.values()}:
                name += "_"
            self.leaves[handed, index] = self.planes.leaf(name, handed.room)
        filled = NOWHERE if HEADS in handed.room else EVERYWHERE
        return _Plane(self.leaves[handed, index], EVERYWHERE, filled)

    def title(self, handed: Handed) -> str:
        """What the planes of a token or a weight are called: as in the spec, and unlike those of any other."""
        if handed not in self.titles:
            taken = set(self.titles.values())
            wished = [handed.name, f"{handed.name}_{handed.side or 'weight'}"]
            wished += [f"{wished[1]}_{i}" for i in range(2, len(taken) + 3)]
            self.titles[handed] = next(name for name in wished if name not in taken)
        return self.titles[handed]

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
