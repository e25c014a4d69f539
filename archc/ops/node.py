"""Element-wise expressions as a graph without duplicates: the vocabulary in which ops state their derivatives.

A node is an op of the table, a number, or a leaf (what an expression is a function of). Equal nodes are one object, so
common subexpressions share by themselves, and a derivative that says `exp(x)` finds the one of the forward pass. Nodes
have neither axes nor kinds: whoever builds or runs them broadcasts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Compute = Callable[[str, Sequence[float]], float | None]
"""The value of an op on numbers; None where it has none."""

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

    >>> x = Nodes(lambda op, numbers: 6.0).leaf("x")
    >>> of("exp", x) is of("exp", x), x * 1 is x, 2 * (3 * x)
    (True, True, mul(6.0, x))
    """
    home = next(a.home for a in args if isinstance(a, Node))
    return home.apply(op, *args)


def where(condition: Node, yes: Operand, no: Operand) -> Node:
    """Element-wise choice."""
    return of("where", condition, yes, no)


@dataclass(frozen=True, eq=False)
class Nodes:
    """Where nodes are made, each once; `compute` is asked for ops of numbers alone.

    Rewrites are those that keep every finite value to the last bit (`x * 1`, `2 * (4 * x)` up to the rounding of one
    product, `a - (-b)`), except that zero times anything is zero.
    """

    compute: Compute
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
        simpler = SIMPLER[op](nodes) if op in SIMPLER else None
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


def _add(nodes: tuple[Node, ...]) -> Node | None:
    a, b = nodes
    if a.is_number(0):
        return b
    if b.is_number(0):
        return a
    if b.op == "neg":
        return a - b.args[0]
    return b - a.args[0] if a.op == "neg" else None


def _sub(nodes: tuple[Node, ...]) -> Node | None:
    a, b = nodes
    if b.is_number(0):
        return a
    if a.is_number(0):
        return -b
    return a + b.args[0] if b.op == "neg" else None


def _mul(nodes: tuple[Node, ...]) -> Node | None:
    a, b = nodes
    if b.is_number():
        return b * a
    if a.is_number(0):
        return a
    if a.is_number(1):
        return b
    if a.is_number(-1):
        return -b
    if a.op == "neg":
        return -(a.args[0] * b)
    if b.op == "neg":
        return (-a) * b.args[0] if a.is_number() else -(a * b.args[0])
    for factor, mask in ((a, b), (b, a)):
        if mask.op == "where" and mask.args[1].is_number(1) and mask.args[2].is_number(0):
            return where(mask.args[0], factor, 0)
    if a.is_number() and b.op == "mul" and b.args[0].is_number():
        return (a.value * b.args[0].value) * b.args[1]
    return None


def _div(nodes: tuple[Node, ...]) -> Node | None:
    a, b = nodes
    if a.is_number(0) or b.is_number(1):
        return a
    if b.is_number(2, 4, 8, 16, -1, -2):  # the inverse is exact
        return (1 / b.value) * a
    if a.op == "neg":
        return -(a.args[0] / b)
    return None


def _neg(nodes: tuple[Node, ...]) -> Node | None:
    (a,) = nodes
    if a.op == "neg":
        return a.args[0]
    if a.op == "mul" and a.args[0].is_number():
        return -a.args[0].value * a.args[1]
    return a.args[1] - a.args[0] if a.op == "sub" else None


def _pow(nodes: tuple[Node, ...]) -> Node | None:
    base, exponent = nodes
    if base.is_number() and base.value > 0:
        return of("exp", exponent * base.home.apply("log", base))
    if not exponent.is_number():
        return None
    if exponent.is_number(0.5, -0.5):
        return of("sqrt" if exponent.value > 0 else "rsqrt", base)
    if exponent.is_number(-1):
        return 1 / base
    out: Operand = 1.0
    if exponent.is_number(0, 1, 2, 3, 4):
        for _ in range(int(exponent.value)):
            out = out * base
        return out if isinstance(out, Node) else base.home.number(out)
    return None


def _choice(nodes: tuple[Node, ...]) -> Node | None:
    condition, yes, no = nodes
    if condition.is_number():
        return yes if condition.value else no
    return yes if yes is no else None


def _and(nodes: tuple[Node, ...]) -> Node | None:
    a, b = nodes if nodes[0].is_number() else nodes[::-1]
    return (b if a.value else a) if a.is_number() else None


def _or(nodes: tuple[Node, ...]) -> Node | None:
    a, b = nodes if nodes[0].is_number() else nodes[::-1]
    return (a if a.value else b) if a.is_number() else None


def _same(nodes: tuple[Node, ...]) -> Node | None:
    return nodes[0]


SIMPLER: dict[str, Callable[[tuple[Node, ...]], Node | None]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "pow": _pow,
    "where": _choice,
    "and": _and,
    "or": _or,
    "fp32": _same,  # expressions have one precision and no axes
    "narrow": _same,
    "rename": _same,
}
