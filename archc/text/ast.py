"""The syntax tree: what a spec says, node by node, each with the span it was read from.

Nodes compare by identity, so that a pass can keep facts about one occurrence of an expression in a dictionary.
"""

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


# --- statements --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Stmt(Node):
    """One line of a body."""


@dataclass(frozen=True, eq=False)
class Let(Stmt):
    """`a, b = expr`."""

    targets: tuple[Ident, ...]
    value: Expr


@dataclass(frozen=True, eq=False)
class Return(Stmt):
    """`return a, b`."""

    values: tuple[Expr, ...]


@dataclass(frozen=True, eq=False)
class LoopState(Node):
    """`h[hidden] = 0`; without a start it begins at zero."""

    name: Ident
    axes: tuple[AxisDecl, ...]
    start: Expr | None


@dataclass(frozen=True, eq=False)
class Loop(Stmt):
    """`loop h[hidden] = 0 { ... }`."""

    states: tuple[LoopState, ...]
    body: tuple[Stmt, ...]


@dataclass(frozen=True, eq=False)
class Shared(Stmt):
    """`shared f = name(...)`."""

    name: Ident
    call: Call


@dataclass(frozen=True, eq=False)
class Init(Stmt):
    """`init name = expr`; `init default = expr` in a model."""

    name: Ident
    value: Expr


@dataclass(frozen=True, eq=False)
class Frozen(Stmt):
    """`frozen a, b`."""

    names: tuple[Ident, ...]


@dataclass(frozen=True, eq=False)
class Tied(Stmt):
    """`tied E`."""

    names: tuple[Ident, ...]


@dataclass(frozen=True, eq=False)
class InputDecl(Stmt):
    """`input segment`."""

    names: tuple[Ident, ...]


@dataclass(frozen=True, eq=False)
class Setting(Node):
    """`width = 256` on a size line."""

    name: Ident
    value: Expr


@dataclass(frozen=True, eq=False)
class SizeDecl(Stmt):
    """`size tiny: width = 256, depth = 6`."""

    name: Ident
    settings: tuple[Setting, ...]


# --- declarations ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pattern(Node):
    """`[width]`, `[.. dim]`: the axes a parameter expects; `rest` allows any axes before."""

    rest: bool
    axes: tuple[Ident, ...]


@dataclass(frozen=True, eq=False)
class Param(Node):
    """`x[width]`, `taps = 4`."""

    name: Ident
    pattern: Pattern | None
    default: Expr | None


@dataclass(frozen=True, eq=False)
class FnDef(Stmt):
    """`fn name(params) { ... }`; `doc` is the text of the `##` lines before it."""

    name: Ident
    params: tuple[Param, ...]
    body: tuple[Stmt, ...]
    doc: str = ""


@dataclass(frozen=True, eq=False)
class BlockDef(Stmt):
    """`block name(params) { ... }`: carries x."""

    name: Ident
    params: tuple[Param, ...]
    body: tuple[Stmt, ...]
    doc: str = ""


@dataclass(frozen=True, eq=False)
class ModelDef(Stmt):
    """`model name(params) { ... }` or `encoder ...`."""

    kind: Literal["model", "encoder"]
    name: Ident
    params: tuple[Param, ...]
    body: tuple[Stmt, ...]
    doc: str = ""


@dataclass(frozen=True, eq=False)
class Import(Stmt):
    """`import "griffin.arch"`; `path` without the quotes."""

    path: str


@dataclass(frozen=True, eq=False)
class File(Node):
    """One spec file."""

    imports: tuple[Import, ...]
    items: tuple[FnDef | ModelDef, ...]
