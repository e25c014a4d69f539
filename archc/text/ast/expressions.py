"""Nodes of the syntax tree that name or compute something: names, axes, expressions, arguments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from archc.diagnostics import Span

BinaryOp = Literal["+", "-", "*", "/", "^", "and", "or", "==", "!=", "<", "<=", ">", ">="]


@dataclass(frozen=True, eq=False)
class Node:
    """Anything that was read from a file."""

    span: Span = field(repr=False)

    def children(self) -> Iterator[Node]:
        """Every node directly below this one, in the order of the text."""
        for value in vars(self).values():
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, Node):
                    yield item

    def walk(self) -> Iterator[Node]:
        """This node and every node below it, depth first."""
        todo: list[Node] = [self]
        while todo:
            node = todo.pop()
            yield node
            todo += reversed(tuple(node.children()))


# --- names -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ident(Node):
    """A name where it is declared or called (not evaluated)."""

    text: str


@dataclass(frozen=True, eq=False)
class AxisRef(Node):
    """`dim`, `side'`: the name of an axis and how many primes follow it."""

    name: str
    primes: int = 0

    @property
    def text(self) -> str:
        """The axis as written."""
        return self.name + "'" * self.primes


@dataclass(frozen=True, eq=False)
class AxisDecl(Node):
    """An axis of a weight or a loop state, with its size if that is given in place."""

    axis: AxisRef
    size: Expr | None = None


# --- expressions -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Expr(Node):
    """Anything that has a value."""


@dataclass(frozen=True, eq=False)
class Number(Expr):
    """A literal, exact; `text` keeps the way it was written (`256_000`, `1e-5`)."""

    text: str

    @property
    def value(self) -> Fraction:
        """The exact value."""
        return Fraction(self.text.replace("_", ""))


@dataclass(frozen=True, eq=False)
class Name(Expr):
    """A name that is evaluated."""

    text: str


@dataclass(frozen=True, eq=False)
class Unary(Expr):
    """`-x`, `not m`."""

    op: Literal["-", "not"]
    value: Expr


@dataclass(frozen=True, eq=False)
class Binary(Expr):
    """Arithmetic, comparison and logic."""

    op: BinaryOp
    left: Expr
    right: Expr


@dataclass(frozen=True, eq=False)
class WeightRef(Expr):
    """`W[a b]` or `W[a b -> c d]`; `made` is None without an arrow."""

    name: Ident
    axes: tuple[AxisDecl, ...]
    made: tuple[AxisDecl, ...] | None = None


@dataclass(frozen=True, eq=False)
class Contract(Expr):
    """`x @ W[...]`."""

    left: Expr
    weight: WeightRef


@dataclass(frozen=True, eq=False)
class Lookup(Expr):
    """`E[vocab width](tokens)`."""

    weight: WeightRef
    index: Expr


@dataclass(frozen=True, eq=False)
class Arrow(Node):
    """`rnn -> gates side` among the arguments of a call; `left` is None in `join(a, b, -> pair)`."""

    left: tuple[AxisRef, ...] | None
    right: tuple[AxisRef, ...]


@dataclass(frozen=True, eq=False)
class Arg(Node):
    """One argument of a call."""

    name: Ident | None
    value: Expr | Arrow


@dataclass(frozen=True, eq=False)
class Call(Expr):
    """`f(x, n = 3)`; `label: f(x)` fixes the name of the instance."""

    callee: Ident
    args: tuple[Arg, ...]
    label: Ident | None = None


@dataclass(frozen=True, eq=False)
class AxisList(Expr):
    """`heads dim` inside brackets: two or more axes side by side."""

    axes: tuple[AxisRef, ...]


@dataclass(frozen=True, eq=False)
class Override(Expr):
    """`at(7, 15): attention` in the list of a stack."""

    where: Call
    value: Expr


@dataclass(frozen=True, eq=False)
class ListExpr(Expr):
    """`[recurrent, recurrent, local]`, `[heads dim]`, `[]`."""

    entries: tuple[Expr, ...]
