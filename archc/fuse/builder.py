"""A region of values as expressions: nodes, their names, and the leaves that a kernel is handed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from archc.fuse.dag import FIRST, NUMBER
from archc.fuse.on_axes import SHAPES, Placed
from archc.fuse.regions import is_start
from archc.ir.graph import Kind, Value
from archc.ops.node import Node, Nodes, of
from archc.ops.table import OPS


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
