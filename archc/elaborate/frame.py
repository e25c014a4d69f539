"""The place where elaboration stands: region, scope and call; how to add a value there, and how to fail."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from sys import float_info
from typing import Any, NoReturn, Protocol

from archc.diagnostics import ArchError, Diagnostic, Note, Span, error, led_here
from archc.elaborate.bound import Bound, Callable_, Poison, Scope
from archc.elaborate.builder import Builder
from archc.elaborate.call import Call
from archc.elaborate.numbers import Num, Root
from archc.ir.graph import Operand, Origin, Region, Type, Value, Weight
from archc.ops.aliases import bare
from archc.ops.base import Misfit, called
from archc.ops.table import INFER
from archc.text import ast


class Walker(Protocol):
    """What evaluates expressions; a protocol, so that the parts of the elaborator need not import one another."""

    def evaluate(self, node: ast.Expr, frame: Frame) -> Bound:
        """The value of an expression."""

    def body(self, body: tuple[ast.Stmt, ...], frame: Frame) -> tuple[Bound, ...] | None:
        """Runs statements; what `return` gave back, if there was one."""


CROSSING = frozenset(
    {
        "conv",
        "prev",
        "scan",
        "maxscan",
        "loop",
        "queries",
        "keys",
        "mask",
        "softmax_keys",
        "reduce_keys",
        "contract_keys",
    }
    | {"reduce_time", "stack"}
)


_ONE_TOKEN = {"loop": ("the body of a loop", "compute it before the loop"), "init": ("an initial value", "")}


@dataclass(eq=False)
class Shelf:
    """What one elaboration shares: counters, diagnostics, finished weights.

    `histories`: where the size of an axis came from; `factors`: weights that something is multiplied by; `filters`:
    weights of convolutions, with their taps; `checked`: definitions whose statements were looked at; `homes`: where the
    weights of shared fns go.
    """

    diagnostics: list[Diagnostic] = field(default_factory=list)
    ids: Iterator[int] = field(default_factory=itertools.count)
    weights: dict[Region, tuple[Weight, ...]] = field(default_factory=dict)
    histories: dict[tuple[str, int], tuple[Root, ...]] = field(default_factory=dict)
    factors: set[Value] = field(default_factory=set)
    filters: dict[Value, tuple[str, ...]] = field(default_factory=dict)
    checked: set[ast.Node] = field(default_factory=set)
    homes: dict[str, Builder] = field(default_factory=dict)
    pos: Value | None = None
    default_init: tuple[ast.Expr, Frame] | None = None

    def report(self, failed: ArchError) -> None:
        """Keeps the diagnostics of an error, each once."""
        known = {(d.code, d.message, str(d.span)) for d in self.diagnostics}
        self.diagnostics += [d for d in failed.diagnostics if (d.code, d.message, str(d.span)) not in known]

    def remember(self, axis: str, size: int, roots: tuple[Root, ...]) -> None:
        """Keeps where the size of an axis came from."""
        if roots:
            self.histories.setdefault((axis.rstrip("'"), size), roots)

    def recall(self, axis: str, size: int) -> tuple[Root, ...]:
        """Where the size of an axis came from, if that is known."""
        return self.histories.get((axis.rstrip("'"), size), ())


class Poisoned(ArchError):
    """Raised by the use of a name whose own statement failed; it has no diagnostics of its own."""

    def __init__(self) -> None:
        super().__init__(())


@dataclass(frozen=True, eq=False)
class Frame:
    """Where we are. Frames are cheap and immutable; their parts are not.

    `sites` are the calls that led here, outermost first; `target` the name that the statement binds; `wide`: inside of
    `fp32(...)`; `block`: the scope of the block, which knows `layer`; `home`: where weights of a shared fn go.
    """

    walker: Walker
    shelf: Shelf
    builder: Builder
    scope: Scope
    call: Call
    sites: tuple[Span, ...] = ()
    target: str = ""
    wide: bool = False
    block: Scope | None = None
    home: Builder | None = None

    def at(self, **changes: Any) -> Frame:
        """The same place with some parts changed."""
        return replace(self, **changes)

    # --- errors --------------------------------------------------------------------------------------

    def diagnostic(
        self, code: str, message: str, node: ast.Node | Span, *notes: Note | Root, help: str = ""
    ) -> ArchError:
        """An error at a node, with the calls that led here."""
        span = node.span if isinstance(node, ast.Node) else node
        place, trail = led_here((span, *reversed(self.sites)))
        own = dict.fromkeys(n.note if isinstance(n, Root) else n for n in notes)
        return error(code, message, place, *own, *trail, help=help)

    def fail(self, code: str, message: str, node: ast.Node | Span, *notes: Note | Root, help: str = "") -> NoReturn:
        """Raises an error at a node (see `diagnostic`)."""
        raise self.diagnostic(code, message, node, *notes, help=help)

    def complain(self, code: str, message: str, node: ast.Node | Span, *notes: Note | Root, help: str = "") -> None:
        """Reports an error and goes on."""
        self.shelf.report(self.diagnostic(code, message, node, *notes, help=help))

    def shown(self, origin: Origin) -> Span | None:
        """The line of the user's own file that made a value, if there is one."""
        trail = [s for s in (origin.span, *reversed(origin.calls)) if s is not None]
        return next((s for s in trail if not s.source.standard), trail[0] if trail else None)

    def made(self, value: Value, what: str = "it") -> tuple[Note, ...]:
        """Where a value was made, as a note; parameters are made nowhere."""
        span = self.shown(value.origin)
        return (Note(f"{what} is made here", span),) if span is not None and value.op != "param" else ()

    def history(self, *values: Operand, axes: tuple[str, ...] | None = None) -> tuple[Root, ...]:
        """Where the sizes of values came from: along the given axes, or those along which the values differ."""
        sizes: dict[str, set[int]] = {}
        for value in values:
            for axis in value.type.axes if isinstance(value, Value) else ():
                sizes.setdefault(axis.name, set()).add(axis.size)
        if axes is None:
            axes = tuple(n for n, s in sizes.items() if len(s) > 1)
        return tuple(r for n in axes for size in sorted(sizes.get(n, ())) for r in self.shelf.recall(n, size))

    # --- values --------------------------------------------------------------------------------------

    def add(
        self,
        op: str,
        args: tuple[Operand, ...],
        node: ast.Node,
        attrs: Mapping[str, Any] | None = None,
        label: str = "",
    ) -> Value:
        """Adds a value to the region. Raises the op's objection, placed at the node."""
        attrs = attrs or {}
        if op in CROSSING and self.builder.name in ("loop", "init"):
            place, help = _ONE_TOKEN[self.builder.name]
            self.fail("E238", f"'{op.split('_')[0]}' crosses time, which {place} does not", node, help=help)
        try:
            kind = INFER[op](args, attrs)
        except Misfit as misfit:
            notes = self.made(misfit.other, called(misfit.other)) if misfit.other is not None else ()
            self.fail(misfit.code, misfit.message, node, *notes, *self.history(*args), help=misfit.help)
        value = Value(next(self.shelf.ids), op, args, kind, attrs, Origin(node.span, self.sites), label)
        self.builder.values.append(value)
        if op in ("mul", "div"):
            self.shelf.factors.update(bare(a) for a in value.operands)
        return value

    def param(self, name: str, kind: Type, node: ast.Node) -> Value:
        """Adds a parameter to the region."""
        origin = Origin(node.span, self.sites)
        value = Value(next(self.shelf.ids), "param", (), kind, {"name": name, "type": kind}, origin, name)
        self.builder.params.append(value)
        return value

    def widen(self, operand: Operand, node: ast.Node) -> Operand:
        """The operand in single precision, inside of `fp32(...)` and of statistics."""
        if not isinstance(operand, Value) or operand.type.wide or operand.type.dtype != "real":
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
            case Num() if not -float_info.max <= bound.value <= float_info.max:
                self.fail("E203", f"{what} is a number too large to compute with", node, *bound.roots)
            case Num():
                return bound.plain
            case Poison():
                raise Poisoned
        call = "call it: its name and what it takes in parentheses" if isinstance(bound, Callable_) else ""
        self.fail("E210", f"{what} must be a value or a number, this is {describe(bound)}", node, help=call)

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

    def size(self, bound: Bound, node: ast.Node, axis: str, least: int = 0) -> int:
        """A whole number from `least`, as the size of an axis."""
        found = self.number(bound, node, f"the size of '{axis}'")
        whole = found.whole
        if whole is None or whole < least:
            part = "choose numbers that divide" if len(found.roots) > 1 else "round with ceil or floor"
            self.fail(
                "E201",
                f"axis '{axis}' would have size {found}",
                node,
                *found.roots,
                help=part if whole is None else f"an axis has at least size {max(least, 1)}",
            )
        self.shelf.remember(axis, whole, found.roots)
        return whole

    def whole(self, bound: Bound, node: ast.Node, what: str) -> int:
        """A whole number."""
        found = self.number(bound, node, what)
        if found.whole is None:
            self.fail("E201", f"{what} must be a whole number, this is {found}", node, *found.roots)
        return found.whole


def describe(bound: Bound) -> str:
    """What a name stands for, in a sentence."""
    match bound:
        case Value():
            return called(bound)
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
