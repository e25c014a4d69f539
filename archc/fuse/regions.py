"""The element-wise values around a scan that one kernel computes with it, and where they end.

A region is grown backwards from what the kernel must know (decay and input) through element-wise ops whose axes the
scan has, and cut where a value comes from other elements or is needed elsewhere as well. Axes are followed through
renaming, so a value is kept together with what the scan calls its axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from math import prod

from archc.diagnostics import Span
from archc.fuse.dag import FIRST, NUMBER
from archc.ir.graph import Axis, Kind, Operand, Region, Value
from archc.ops.node import Node, Nodes, of
from archc.ops.table import OPS
from archc.passes.readout import leaves

Group = tuple[Axis, ...]
"""The axes of the scan that one axis of a value is made of, in this order."""


@dataclass(frozen=True)
class Placed:
    """A value, and for each of its axes, in its own order, what it is in axes of the scan."""

    value: Value
    groups: tuple[Group, ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """All these axes in a row, as the scan calls them."""
        return tuple(a.name for group in self.groups for a in group)

    def operands(self) -> tuple[Placed | float, ...]:
        """What it is computed from."""
        groups = dict(zip(self.value.names, self.groups, strict=True))
        attrs = self.value.attrs
        match self.value.op:
            case "rename":
                old = {new: old for old, new in attrs["names"].items()}
                groups |= {old.get(n, n): group for n, group in groups.items()}
            case "split":
                groups[attrs["axis"]] = tuple(a for each in attrs["into"] for a in groups[each.name])
            case "merge":
                sizes = self.value.operands[0].type.sizes
                pieces = parted(groups[attrs["into"]], {name: sizes[name] for name in attrs["axes"]})
                assert pieces is not None, f"{self.value} was placed without its operand"
                groups |= pieces
        return tuple(
            Placed(a, tuple(groups[n] for n in a.names)) if isinstance(a, Value) else float(a) for a in self.value.args
        )


@dataclass(frozen=True)
class Given:
    """A number that a kernel is handed instead of having it in its text: which argument of which value it is. Those of
    one name are the same number.
    """

    name: str
    value: Value
    index: int


Numbers = Mapping[tuple[Value, int], Given]
"""The numbers that kernels are handed."""


def placed(value: Value) -> Placed:
    """A value that has the axes of the scan by their names."""
    return Placed(value, tuple((a,) for a in value.type.axes))


def factor(operand: Operand) -> Placed | float:
    """An operand of the scan itself."""
    return placed(operand) if isinstance(operand, Value) else float(operand)


def parted(group: Group, sizes: Mapping[str, int]) -> dict[str, Group] | None:
    """Axes in a row cut into groups of these sizes, by the names of the groups; None if an axis would be cut.

    >>> parted((Axis("a", 2), Axis("b", 3), Axis("c", 5)), {"x": 6, "y": 5})
    {'x': (Axis(name='a', size=2), Axis(name='b', size=3)), 'y': (Axis(name='c', size=5),)}
    >>> parted((Axis("a", 6),), {"x": 2, "y": 3})
    """
    out: dict[str, Group] = {}
    rest = list(group)
    for name, size in sizes.items():
        taken: list[Axis] = []
        while rest and (not taken or prod(a.size for a in taken) < size):
            taken.append(rest.pop(0))
        if not taken or prod(a.size for a in taken) != size:
            return None
        out[name] = tuple(taken)
    return None if rest else out


def fuses(value: Value) -> bool:
    """Whether the op is element-wise, real, and varies with the token: only such values enter a kernel."""
    real = value.type.dtype != "complex" and all(v.type.dtype != "complex" for v in value.operands)
    flow = OPS[value.op].flow in ("pointwise", "alias")
    return flow and real and value.kind is Kind.TOKEN


SHAPES = ("merge", "split")


def only_moves(value: Value) -> bool:
    """Whether a value is another one in other words: with other names, in another shape or precision."""
    return OPS[value.op].flow == "alias" or value.op in SHAPES


def is_start(value: Value) -> bool | None:
    """Whether a value is true where a document starts (`pos == 0`), false there (`pos != 0`), or neither (None)."""
    match value.args:
        case (Value(op="pos"), 0) | (0, Value(op="pos")) if value.op in ("eq", "ne"):
            return value.op == "eq"
    return None


@dataclass(frozen=True)
class Kernel:
    """What a kernel computes besides its equations: `own`, the state and what is read from it; `between`, values that
    it has in another form, such as products that are never stored. `taken` are values that other kernels compute.

    A kernel belongs to one call of a function of the spec, `calls`: that of its scan. It may take in what functions
    called from there compute, if it can do so whole: what it reads must have a name where it runs.
    """

    region: Region
    calls: tuple[Span, ...]
    axes: frozenset[str]
    own: frozenset[Value]
    between: frozenset[Value]
    taken: frozenset[Value]

    def read_elsewhere(self, values: AbstractSet[Value]) -> set[Value]:
        """Which of the values must exist outside of the kernel as well."""
        inside = values | self.between
        out: set[Value] = set()
        for value in reversed(self.region.values):
            if value in inside and value not in self.own:
                users = self.region.users.get(value, ())
                known = inside - out | self.own
                if any(u not in known for u in users) or leaves(value, self.region):
                    out.add(value)
        return out

    def grown(self, tops: Iterable[Placed], outside: AbstractSet[Value]) -> frozenset[Placed]:
        """The region that ends in `tops` and keeps the given values outside."""
        home = set(self.region.values) - set(self.region.params) - outside - self.own - self.taken
        out: set[Placed] = set()
        todo = list(tops)
        while todo:
            each = todo.pop()
            own = each.value in home and fuses(each.value) and is_start(each.value) is None
            own = own and each.value.origin.calls[: len(self.calls)] == self.calls
            if own and set(each.axes) <= self.axes and each not in out:
                out.add(each)
                todo += [a for a in each.operands() if isinstance(a, Placed)]
        return frozenset(out)

    def inside(self, tops: Iterable[Placed]) -> frozenset[Placed]:
        """The maximal region that ends in `tops`, of values with no other axes than the kernel's.

        A value that is read elsewhere as well stays outside, unless it is a cast or a new name of another value: those
        cost nothing to repeat.
        """
        outside: set[Value] = set()
        found = self.grown(tops, outside)
        while True:
            elsewhere = self.read_elsewhere({p.value for p in found})
            more = {p.value for p in found if p.value in elsewhere and OPS[p.value.op].flow != "alias"}
            more |= self._of_cut_calls(found)
            if not more:
                return found
            outside |= more
            found = self.grown(tops, outside)

    def _of_cut_calls(self, found: frozenset[Placed]) -> set[Value]:
        """The values of called functions that read what only exists inside of that call, and what gives a result of
        such a call the names of the axes outside: the result has a name there, what it is made of has none.
        """
        cut: set[tuple[Span, ...]] = set()
        results: set[Value] = set()
        inside = {p.value for p in found}
        for reader in inside:
            for operand in reader.operands:
                calls = operand.origin.calls
                if operand in inside or len(calls) <= len(self.calls):
                    continue
                if reader.origin.calls[: len(calls)] == calls:
                    cut.add(calls[: len(self.calls) + 1])
                elif reader.op == "rename":
                    results.add(reader)
        return results | {v for v in inside if v.origin.calls[: len(self.calls) + 1] in cut}


def border(tops: Iterable[Placed], region: frozenset[Placed]) -> frozenset[Placed]:
    """The values outside of a region that it reads, weights included."""
    operands = (a for p in region for a in p.operands() if isinstance(a, Placed))
    return frozenset(p for p in (*tops, *operands) if p not in region and is_start(p.value) is None)


@dataclass(eq=False)
class Builder:
    """Turns the values of a region into nodes; what it meets at the border becomes a leaf, and so do the `numbers`, of
    which `handed` are those met.
    """

    inside: frozenset[Placed]
    nodes: Nodes
    named: Callable[[Placed], str]
    numbers: Numbers
    handed: dict[Node, Given] = field(default_factory=dict)
    known: dict[Placed, Node] = field(default_factory=dict)
    border: dict[Placed, Node] = field(default_factory=dict)
    names: dict[Node, str] = field(default_factory=dict)

    @property
    def first(self) -> Node:
        """The leaf that is true where a document starts."""
        return self.nodes.leaf(FIRST, truth=True)

    def node(self, at: Placed | float | Given) -> Node:
        """The node of a value or a number; weights, values from outside and numbers that are handed in are leaves."""
        if isinstance(at, float):
            return self.nodes.number(at)
        if isinstance(at, Given):
            leaf = self.nodes.leaf(NUMBER + at.name)
            self.handed.setdefault(leaf, at)
            return leaf
        if at not in self.known:
            self.known[at] = self._made(at)
            if at.value.label and self.known[at].args:
                self.names.setdefault(self.known[at], at.value.label)
        return self.known[at]

    def leaf(self, at: Placed) -> Node:
        """What stands for a value that the kernel has from elsewhere than its border."""
        self.known[at] = self.nodes.leaf(self.named(at))
        return self.known[at]

    def _made(self, at: Placed) -> Node:
        start = is_start(at.value)
        if start is not None:
            return self.first if start else of("not", self.first)
        cast = at.value.kind is Kind.WEIGHT and OPS[at.value.op].flow == "alias"
        if cast or at in self.inside:
            op = "rename" if at.value.op in SHAPES else at.value.op
            operands = (self.numbers.get((at.value, i), a) for i, a in enumerate(at.operands()))
            return self.nodes.apply(op, *map(self.node, operands))
        leaf = self.border.setdefault(at, self.nodes.leaf(self.named(at)))
        return of("ne", leaf, 0) if at.value.type.dtype == "bool" else leaf

    def product(self, factors: Iterable[tuple[Placed | float | Given, int]]) -> Node:
        """The product of values to the power of 1 or -1."""
        out = self.nodes.number(1)
        for factor, power in factors:
            out = out * self.node(factor) if power == 1 else out / self.node(factor)
        return out


def leaf_names(
    inside: frozenset[Placed], tops: Mapping[Placed, str], known: Mapping[Placed, str]
) -> Callable[[Placed], str]:
    """How values at the border are called: as in the spec, or `<name>_in` after the named value that reads them; those
    `known` by a name of theirs that the spec does not name.
    """
    wished = {at: f"{name}_in" for at, name in tops.items()}
    for at in sorted(inside, key=lambda p: -p.value.id):
        alias = OPS[at.value.op].flow == "alias"
        wish = (at.value.label if alias else f"{at.value.label}_in") if at.value.label else wished[at]
        for operand in at.operands():
            if isinstance(operand, Placed):
                wished.setdefault(operand, wish)
    taken = {at.value.label for at in inside if at.value.label and OPS[at.value.op].flow != "alias"}
    made: dict[Placed, str] = {}

    def named(at: Placed) -> str:
        if at not in made:
            base = own_name(at.value) or known.get(at) or wished[at]
            base = base if base.strip("_") else f"x{base}"  # printers call `_` what they leave out
            name, count = base, 1
            while name in taken:
                count += 1
                name = f"{base}_{count}"
            taken.add(name)
            made[at] = name
        return made[at]

    return named


def own_name(value: Value) -> str:
    """The name of a value in the spec, through casts; of a weight that of its tensor, of a hoisted function of one
    weight `hoisted_<name>`."""
    while not value.label and OPS[value.op].flow == "alias":
        (value,) = value.operands
    if value.label or value.op == "pos":
        return value.label or "pos"
    if value.op == "prev" and value.operands[0].label:
        return f"prev_{value.operands[0].label}"
    if value.op == "weight":
        return str(value.attrs["path"]).rpartition(".")[2]
    weights = {v.attrs["path"].rpartition(".")[2] for v in _below(value) if v.op == "weight"}
    return f"hoisted_{weights.pop().rstrip('_')}" if value.kind is Kind.WEIGHT and len(weights) == 1 else ""


def _below(value: Value) -> Iterable[Value]:
    for operand in value.operands:
        yield operand
        yield from _below(operand)
