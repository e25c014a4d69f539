"""Nodes of the syntax tree that say something: the lines of a body, declarations, a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from archc.text.ast.expressions import AxisDecl, Call, Expr, Ident, Node


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
