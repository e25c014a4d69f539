"""The place where elaboration stands: the region that is being built, the scope, the call, and how to add a value."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol

from archc.diagnostics import ArchError, Diagnostic, Note, Span
from archc.elaborate.bound import Bound, Num, Poison, Scope
from archc.elaborate.call import Call
from archc.ir.graph import Axis, Operand, Origin, Region, Type, Value, Weight
from archc.ops.base import Misfit
from archc.ops.table import INFER
from archc.text import ast


class Walker(Protocol):
    """What evaluates expressions; a protocol, so that the parts of the elaborator need not import one another."""

    def evaluate(self, node: ast.Expr, frame: Frame) -> Bound:
        """The value of an expression."""

    def body(self, body: tuple[ast.Stmt, ...], frame: Frame) -> tuple[Bound, ...] | None:
        """Runs statements; what `return` gave back, if there was one."""


@dataclass(eq=False)
class Builder:
    """A region under construction."""

    name: str
    ids: Iterator[int]
    parent: Builder | None = None
    params: list[Value] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    lifted: dict[Value, Value] = field(default_factory=dict)
    widened: dict[Value, Value] = field(default_factory=dict)
    weights: list[WeightDraft] = field(default_factory=list)

    def finish(self, results: tuple[Value, ...]) -> Region:
        """The region as data."""
        return Region(self.name, tuple(self.params), tuple(self.values), results)


@dataclass(eq=False)
class WeightDraft:
    """A weight as far as it is known: its role may change when it is used."""

    value: Value
    name: str
    call: Call
    scope: Scope
    role: str
    frozen: bool
    contracted: tuple[str, ...]
    kept: tuple[str, ...]
    span: Span


@dataclass(eq=False)
class Shelf:
    """What one elaboration shares: counters, diagnostics, finished weights, the sources."""

    diagnostics: list[Diagnostic] = field(default_factory=list)
    ids: Iterator[int] = field(default_factory=itertools.count)
    weights: dict[Region, tuple[Weight, ...]] = field(default_factory=dict)
    pos: Value | None = None
    default_init: tuple[ast.Expr, Frame] | None = None

    def report(self, error: ArchError) -> None:
        """Keeps the diagnostics of an error, each once."""
        known = {(d.code, d.message, str(d.span)) for d in self.diagnostics}
        self.diagnostics += [d for d in error.diagnostics if (d.code, d.message, str(d.span)) not in known]


class Poisoned(ArchError):
    """Raised by the use of a name whose own statement failed; it has no diagnostics of its own."""

    def __init__(self) -> None:
        super().__init__(())


@dataclass(frozen=True, eq=False)
class Frame:
    """Where we are. Frames are cheap and immutable; their parts are not."""

    walker: Walker
    shelf: Shelf
    builder: Builder
    scope: Scope
    call: Call
    sites: tuple[Span, ...] = ()
    target: str = ""
    wide: bool = False
    layer: int | None = None

    def at(self, **changes: Any) -> Frame:
        """The same place with some parts changed."""
        return replace(self, **changes)

    def fail(self, code: str, message: str, node: ast.Node | Span, *notes: Note, help: str = "") -> NoReturn:
        """Raises an error at a node, with the calls that led here."""
        span = node.span if isinstance(node, ast.Node) else node
        trail = tuple(Note("called from here", site) for site in reversed(self.sites))
        raise ArchError([Diagnostic(code, message, span, (*notes, *trail), help)])

    def add(
        self, op: str, args: tuple[Operand, ...], node: ast.Node, attrs: Mapping[str, Any] | None = None, label: str = ""
    ) -> Value:
        """Adds a value to the region. Raises the op's objection, placed at the node."""
        attrs = attrs or {}
        try:
            kind = INFER[op](args, attrs)
        except Misfit as misfit:
            notes = []
            if misfit.other is not None and misfit.other.origin.span is not None:
                notes.append(Note("this one", misfit.other.origin.span))
            self.fail(misfit.code, misfit.message, node, *notes, help=misfit.help)
        value = Value(next(self.shelf.ids), op, args, kind, attrs, Origin(node.span, self.sites), label)
        self.builder.values.append(value)
        return value

    def param(self, name: str, kind: Type, node: ast.Node) -> Value:
        """Adds a parameter to the region."""
        origin = Origin(node.span, self.sites)
        value = Value(next(self.shelf.ids), "param", (), kind, {"name": name, "type": kind}, origin, name)
        self.builder.params.append(value)
        return value

    def widen(self, operand: Operand, node: ast.Node) -> Operand:
        """The operand in single precision, inside of `fp32(...)` and of statistics."""
        if not isinstance(operand, Value) or operand.type.wide or operand.type.dtype not in ("real",):
            return operand
        known = self.builder.widened.get(operand)
        if known is None:
            known = self.add("fp32", (operand,), node, label=operand.label)
            self.builder.widened[operand] = known
        return known

    # --- what an expression must be ------------------------------------------------------------------

    def operand(self, bound: Bound, node: ast.Node, what: str) -> Operand:
        """A value or a number; anything else is a mistake."""
        match bound:
            case Value():
                return bound
            case Num():
                return bound.plain
            case Poison():
                raise Poisoned
        self.fail("E210", f"{what} must be a value or a number, this is {describe(bound)}", node)

    def value(self, bound: Bound, node: ast.Node, what: str) -> Value:
        """A value of the graph."""
        found = self.operand(bound, node, what)
        if not isinstance(found, Value):
            self.fail("E210", f"{what} must be a value, this is the number {found}", node)
        return found

    def number(self, bound: Bound, node: ast.Node, what: str) -> Num:
        """A number known when compiling."""
        if isinstance(bound, Poison):
            raise Poisoned
        if not isinstance(bound, Num):
            self.fail("E211", f"{what} must be a number known when compiling, this is {describe(bound)}", node)
        return bound

    def size(self, bound: Bound, node: ast.Node, axis: str) -> int:
        """A positive whole number, as the size of an axis."""
        found = self.number(bound, node, f"the size of '{axis}'")
        whole = found.whole
        if whole is None or whole < 0:
            notes = tuple(root.note for root in found.roots)
            self.fail(
                "E201",
                f"axis '{axis}' would have size {found}",
                node,
                *notes,
                help="sizes are whole numbers: choose values that divide",
            )
        return whole

    def whole(self, bound: Bound, node: ast.Node, what: str) -> int:
        """A whole number."""
        found = self.number(bound, node, what)
        if found.whole is None:
            self.fail(
                "E201", f"{what} must be a whole number, this is {found}", node, *(root.note for root in found.roots)
            )
        return found.whole


def describe(bound: Bound) -> str:
    """What a name stands for, in a sentence."""
    match bound:
        case Value():
            return f"a {bound.type}"
        case Num():
            return f"the number {bound}"
        case tuple():
            return f"{len(bound)} values"
    words = {
        "Axes": "a list of axes",
        "Builtin": "a function",
        "Function": "a function",
        "SharedFunction": "a function",
        "BlockUse": "a block",
        "Repeated": "a repeated block",
        "Replaced": "an override of layers",
    }
    return words[type(bound).__name__]


def axes_text(axes: tuple[Axis, ...]) -> str:
    """Axes in a sentence."""
    return " ".join(f"{a.name}={a.size}" for a in axes)
