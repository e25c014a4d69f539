"""Roots, powers, logarithms and quotients in the form that keeps value and slope where exponentials leave their range.

`archc.ops.logarithms` says which form that is; here it is found in the text of a fn, and said in a backend's words.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from itertools import chain, count

from archc.emit.body import Body
from archc.emit.code import Code, python_name
from archc.emit.equations import number, operator
from archc.emit.layout import reindex
from archc.emit.numbers import number_node
from archc.ir.graph import Kind, Value
from archc.ops.logarithms import BETTER, complement, logarithm
from archc.ops.node import Node, Nodes
from archc.ops.simpler import SIMPLER
from archc.passes.readout import leaves
from archc.text import ast

OPEN = frozenset({"exp", "sigmoid", "neg", "mul", "div", "add", "sub"})
"""What their operands are made of where they have."""


def better(body: Body, value: Value) -> Code | None:
    """The better form of a value; None if it has none that reads only what has a name here."""
    forms = _Forms(body, value)
    found = forms.form()
    return None if found is None else forms.said(found)


def opened(body: Body, value: Value, name: str) -> bool:
    """Gives what an exponential or a sigmoid is taken of a line of its own, where better forms further on read that.

    Whether they alone read the value that is about to have a name, and what it is made of is at hand: it needs no line.
    """
    inner = _single(value)
    region = body.fused.regions[body.call]
    if inner.op not in OPEN or value.kind is Kind.PAIR or inner not in region.users:
        return False
    ends = list(_ends(body, value))
    if all(end is None for end in ends):
        return False
    lost = _assigned_later(body)
    if inner.op not in ("exp", "sigmoid"):
        return None not in ends and _Forms(body, value).is_at_hand(inner, lost)
    (taken,) = inner.operands
    signed = taken.op == "neg" and _Forms(body, value).is_at_hand(taken, lost)
    if body.names.get(taken, "") in ("", *lost) and taken.op != "weight" and not signed:
        code, wish = body.render(taken), f"{name}_in"
        own = next(n for n in chain([wish], (f"{wish}_{i}" for i in count(2))) if n not in body.taken)
        body.line(f"{own} = {code.text}", taken)
        body.bind(taken, own)
    return None not in ends


def _ends(body: Body, value: Value) -> Iterator[Value | None]:
    """The values further on whose better form reads what `value` is made of; None for every other reader."""
    region = body.fused.regions[body.call]
    if leaves(value, region):
        yield None
    for user in region.users.get(value, ()):
        own = user.origin.calls == value.origin.calls and user not in body.fused.absorbed
        if own and user.op in BETTER and _Forms(body, user, ahead=True).form() is not None:
            yield user
        elif own and (user.op in OPEN or user.op == "fp32"):
            yield from _ends(body, user)
        else:
            yield None


def _single(value: Value) -> Value:
    """What is brought to single precision."""
    while value.op == "fp32":
        (value,) = value.operands
    return value


def _assigned_later(body: Body) -> set[str]:
    """The names that a later statement assigns."""
    statements = body.call.definition.body
    later = statements[statements.index(body.statement) + 1 :] if body.statement in statements else statements
    lets = (n for s in later for n in s.walk() if isinstance(n, ast.Let))
    return {python_name(t.text) for let in lets for t in let.targets}


@dataclass(eq=False)
class _Forms:
    """A value as a node of what has a name. `ahead`: as if everything that it is made of will have one."""

    body: Body
    value: Value
    ahead: bool = False
    nodes: Nodes = field(default_factory=lambda: Nodes(lambda op, numbers: None, SIMPLER))
    leaves: dict[Node, tuple[Value, int]] = field(default_factory=dict)

    def form(self) -> Node | None:
        """The better form, if there is one."""
        if self.value.type.dtype != "real" or any(v.type.dtype != "real" for v in self.value.operands):
            return None
        plain = tuple(self.node(self.value, i) for i in range(len(self.value.args)))
        return BETTER[self.value.op](*plain)

    def node(self, value: Value, index: int) -> Node:
        """An operand of a value."""
        operand = value.args[index]
        if not isinstance(operand, Value):
            written = number_node(self.body.call, value, index)
            if written is None or isinstance(written, ast.Number):
                return self.nodes.number(float(operand))
            return self.leaf(value, index, f"number {written.span.start} {written.span.end}")
        inner = _single(operand)
        if self.is_open(operand, inner):
            made = self.nodes.apply(inner.op, *(self.node(inner, i) for i in range(len(inner.args))))
            if operand not in self.body.names or logarithm(made) or complement(made):
                return made
        return self.leaf(value, index, f"value {operand.id}")

    def leaf(self, value: Value, index: int, name: str) -> Node:
        """What is rendered as it is."""
        leaf = self.nodes.leaf(name)
        self.leaves.setdefault(leaf, (value, index))
        return leaf

    def is_open(self, operand: Value, inner: Value) -> bool:
        """Whether the form may look into a value: one that this fn computes, of what has a name or none of its own."""
        if inner.op not in OPEN or inner.type.dtype != "real" or inner.origin.calls != self.value.origin.calls:
            return False
        closed = (self.body.results, self.body.fused.gated, self.body.fused.convs, self.body.sliced)
        if any(v in each for v in (operand, inner) for each in closed):
            return False
        return self.ahead or not {operand, inner} & self.body.names.keys() or self.is_at_hand(inner)

    def is_at_hand(self, value: Value, lost: Set[str] = frozenset()) -> bool:
        """Whether what a value is made of has a name, none that is `lost`, so that nothing is computed twice."""
        for operand in map(_single, value.operands):
            known = self.body.names.get(operand, "") not in ("", *lost) or operand.op == "weight"
            if not known and not (operand.op in OPEN and self.is_at_hand(operand, lost)):
                return False
        return True

    def said(self, node: Node) -> Code:
        """The text of a node."""
        if node.op == "number":
            return number(node.value)
        if node in self.leaves:
            return self.read(*self.leaves[node])
        args = [self.said(a) for a in node.args]
        return operator(node.op, args) or self.body.dialect.function(node.op, args[0])

    def read(self, value: Value, index: int) -> Code:
        """The text of a leaf, along the axes and in the precision of the whole."""
        operand, code = value.args[index], self.body.operand(value, index)
        if not isinstance(operand, Value):
            return code
        code = reindex(code, operand, self.value.type, self.body.dialect)
        if self.value.type.wide and not operand.type.wide:
            self.body.kernel("fp32")
            return Code(f"fp32({code.text})")
        narrow = self.value.kind is not Kind.WEIGHT and not self.value.type.wide
        return self.body.narrow(code) if narrow and self.body.precision.is_wide_weight(operand) else code
