"""Element-wise expressions as a graph without duplicates: the vocabulary in which ops state their derivatives.

A node is an op of the table, a number, or a leaf (what an expression is a function of). Equal nodes are one object, so
common subexpressions share by themselves, and a derivative that says `exp(x)` finds the one of the forward pass. Nodes
have neither axes nor kinds: whoever builds or runs them broadcasts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Compute = Callable[[str, Sequence[float]], float | None]
"""The value of an op on numbers; None where it has none."""
Simpler = Mapping[str, Callable[[tuple["Node", ...]], "Node | None"]]
"""By op: the simpler node that it is equal to on these operands; None if there is none."""

TRUTHS = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not"})
"""The ops whose results are true or false."""
LOGIC = frozenset({"and", "or", "not"})
COMMUTE = frozenset({"add", "mul", "and", "or", "eq", "ne"})


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One op on other nodes; `number` has a value, `leaf` a name; the other fields are empty then.

    Compared by identity, which within one `Nodes` is equality of expressions.
    """

    home: Nodes
    op: str
    args: tuple[Node, ...] = ()
    value: float = 0.0
    name: str = ""
    truth: bool = False

    def __add__(self, other: Operand) -> Node:
        return self.home.apply("add", self, other)

    def __radd__(self, other: Operand) -> Node:
        return self.home.apply("add", other, self)

    def __sub__(self, other: Operand) -> Node:
        return self.home.apply("sub", self, other)

    def __rsub__(self, other: Operand) -> Node:
        return self.home.apply("sub", other, self)

    def __mul__(self, other: Operand) -> Node:
        return self.home.apply("mul", self, other)

    def __rmul__(self, other: Operand) -> Node:
        return self.home.apply("mul", other, self)

    def __truediv__(self, other: Operand) -> Node:
        return self.home.apply("div", self, other)

    def __rtruediv__(self, other: Operand) -> Node:
        return self.home.apply("div", other, self)

    def __neg__(self) -> Node:
        return self.home.apply("neg", self)

    def __gt__(self, other: Operand) -> Node:
        return self.home.apply("gt", self, other)

    def __le__(self, other: Operand) -> Node:
        return self.home.apply("le", self, other)

    def __repr__(self) -> str:
        match self.op:
            case "number":
                return repr(self.value)
            case "leaf":
                return self.name
        return f"{self.op}({', '.join(map(repr, self.args))})"

    def is_number(self, *values: float) -> bool:
        """Whether it is a number, and one of those given if any are."""
        return self.op == "number" and (not values or self.value in values)


Operand = Node | float


def of(op: str, *args: Operand) -> Node:
    """An op applied; at least one operand is a node.

    >>> x = Nodes(lambda op, numbers: None, {}).leaf("x")
    >>> of("exp", x) is of("exp", x), 2 * x
    (True, mul(2.0, x))
    """
    home = next(a.home for a in args if isinstance(a, Node))
    return home.apply(op, *args)


def where(condition: Node, yes: Operand, no: Operand) -> Node:
    """Element-wise choice."""
    return of("where", condition, yes, no)


@dataclass(frozen=True, eq=False)
class Nodes:
    """Where nodes are made, each once; `compute` is asked for ops of numbers alone, `simpler` for what is rewritten."""

    compute: Compute
    simpler: Simpler
    table: dict[tuple[object, ...], Node] = field(default_factory=dict, repr=False)

    def leaf(self, name: str, truth: bool = False) -> Node:
        """What an expression is a function of; leaves of one name are one."""
        return self._once(Node(self, "leaf", name=name, truth=truth), ("leaf", name))

    def number(self, value: float) -> Node:
        """A number."""
        return self._once(Node(self, "number", value=float(value)), ("number", float(value)))

    def apply(self, op: str, *args: Operand) -> Node:
        """An op of nodes and numbers, or the simpler node that it is equal to."""
        nodes = tuple(a if isinstance(a, Node) else self.number(a) for a in args)
        if op in LOGIC:
            nodes = tuple(map(self._true, nodes))
        elif op == "where":
            nodes = (self._true(nodes[0]), *map(self._real, nodes[1:]))
        else:
            nodes = tuple(map(self._real, nodes))
        if all(n.is_number() for n in nodes):
            value = self.compute(op, [n.value for n in nodes])
            if value is not None:
                return self.number(value)
        simpler = self.simpler[op](nodes) if op in self.simpler else None
        if simpler is not None:
            return simpler
        order = sorted(nodes, key=id) if op in COMMUTE else nodes
        return self._once(Node(self, op, nodes, truth=op in TRUTHS), (op, *order))

    def _real(self, node: Node) -> Node:
        """True and false count as 1 and 0."""
        return self.apply("where", node, 1, 0) if node.truth else node

    def _true(self, node: Node) -> Node:
        """What is not 0 counts as true."""
        return node if node.truth or node.is_number() else self.apply("ne", node, 0)

    def _once(self, node: Node, key: tuple[object, ...]) -> Node:
        return self.table.setdefault(key, node)
