"""A region of values as expressions: nodes, their names, and the leaves that a kernel is handed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from archc.fuse.dag import FIRST, NUMBER
from archc.fuse.on_axes import SHAPES, Placed
from archc.fuse.parts import PARTS, Parts, is_complex, of_parts
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
    """Turns the values of a region into nodes; what it meets at the border becomes a leaf, of complex numbers each part
    one, and so do the `numbers`, of which `handed` are those met. `border`: the leaves by value and part.
    """

    inside: frozenset[Placed]
    nodes: Nodes
    named: Callable[[Placed, str], str]
    numbers: Numbers
    handed: dict[Node, Given] = field(default_factory=dict)
    known: dict[Placed, Node] = field(default_factory=dict)
    pairs: dict[Placed, Parts] = field(default_factory=dict)
    border: dict[tuple[Placed, str], Node] = field(default_factory=dict)
    names: dict[Node, str] = field(default_factory=dict)

    @property
    def first(self) -> Node:
        """The leaf that is true where a document starts."""
        return self.nodes.leaf(FIRST, truth=True)

    def node(self, at: Placed | float | Given) -> Node:
        """The node of a real value or a number; weights, values from outside and numbers handed in are leaves."""
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

    def parts(self, at: Placed | float | Given) -> Parts:
        """The nodes of the parts of a value or a number."""
        if not isinstance(at, Placed) or not is_complex(at.value):
            return Parts(self.node(at), self.nodes.number(0))
        if at not in self.pairs:
            if self._is_inside(at):
                found = of_parts(_op(at), [self.parts(a) for a in self._operands(at)])
            else:
                found = Parts(*(self._leaf(at, part) for part in PARTS))
            self.pairs[at] = found
            for node, part in zip(found, PARTS, strict=True):
                if at.value.label and node.args:
                    self.names.setdefault(node, f"{at.value.label}_{part}")
        return self.pairs[at]

    def leaf(self, at: Placed) -> Node:
        """What stands for a value that the kernel has from elsewhere than its border."""
        self.known[at] = self.nodes.leaf(self.named(at, ""))
        return self.known[at]

    def _made(self, at: Placed) -> Node:
        start = is_start(at.value)
        if start is not None:
            return self.first if start else of("not", self.first)
        if self._is_inside(at):
            if any(map(is_complex, at.value.operands)):
                return of_parts(_op(at), [self.parts(a) for a in self._operands(at)]).real
            return self.nodes.apply(_op(at), *map(self.node, self._operands(at)))
        leaf = self._leaf(at, "")
        return of("ne", leaf, 0) if at.value.type.dtype == "bool" else leaf

    def _is_inside(self, at: Placed) -> bool:
        of_numbers = at.value.op == "complex" and not at.value.operands
        return at in self.inside or of_numbers or (at.value.kind is Kind.WEIGHT and OPS[at.value.op].flow == "alias")

    def _operands(self, at: Placed) -> list[Placed | float | Given]:
        return [self.numbers.get((at.value, i), a) for i, a in enumerate(at.operands())]

    def _leaf(self, at: Placed, part: str) -> Node:
        return self.border.setdefault((at, part), self.nodes.leaf(self.named(at, part)))

    def product(self, factors: Iterable[tuple[Placed | float | Given, int]]) -> Node:
        """The product of values to the power of 1 or -1."""
        out = self.nodes.number(1)
        for factor, power in factors:
            out = out * self.node(factor) if power == 1 else out / self.node(factor)
        return out


def _op(at: Placed) -> str:
    return "rename" if at.value.op in SHAPES else at.value.op


def leaf_names(
    inside: frozenset[Placed], tops: Mapping[Placed, str], known: Mapping[Placed, str]
) -> Callable[[Placed, str], str]:
    """How values at the border are called: as in the spec, or `<name>_in` after the named value that reads them; those
    `known` by a name of theirs that the spec does not name. Behind it stands which part of a value it is, if it is one.
    """
    wished = {at: f"{name}_in" for at, name in tops.items()}
    for at in sorted(inside, key=lambda p: -p.value.id):
        alias = OPS[at.value.op].flow == "alias"
        wish = (at.value.label if alias else f"{at.value.label}_in") if at.value.label else wished[at]
        for operand in at.operands():
            if isinstance(operand, Placed):
                wished.setdefault(operand, wish)
    taken = {at.value.label for at in inside if at.value.label and OPS[at.value.op].flow != "alias"}
    made: dict[tuple[Placed, str], str] = {}

    def named(at: Placed, part: str) -> str:
        if (at, part) not in made:
            base = own_name(at.value) or known.get(at) or wished[at]
            base = base if base.strip("_") else f"x{base}"  # printers call `_` what they leave out
            base = f"{base}_{part}" if part else base
            name, count = base, 1
            while name in taken:
                count += 1
                name = f"{base}_{count}"
            taken.add(name)
            made[at, part] = name
        return made[at, part]

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
