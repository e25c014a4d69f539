"""The functions of the language: how each is called, and the rule that builds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from archc.diagnostics import closest
from archc.elaborate import crossing, elementwise, shapes
from archc.elaborate.bound import Bound
from archc.elaborate.frame import Frame
from archc.elaborate.given import Given
from archc.ops.pair import MASKS
from archc.ops.pointwise import UNARY
from archc.text import ast


@dataclass(frozen=True)
class Rule:
    """How a builtin is called, and what builds it; `names` None: any name, which is an axis."""

    build: Callable[[Given], Bound]
    usage: str
    counts: tuple[int, int] = (1, 1)
    names: frozenset[str] | None = frozenset()
    required: tuple[str, ...] = ()
    arrow: bool = False


_OVER = frozenset({"over"})
_SCAN = ("decay", "input")

RULES: dict[str, Rule] = {
    **{n: Rule(elementwise.unary, f"{n}(x)") for n in (*UNARY, "ceil", "floor", "real", "imag") if n != "neg"},
    "min": Rule(elementwise.extreme, "min(a, b) or min(x, over = axis)", (1, 2), _OVER),
    "max": Rule(elementwise.extreme, "max(a, b) or max(x, over = axis)", (1, 2), _OVER),
    "clip": Rule(elementwise.clip, "clip(x, low, high)", (3, 3)),
    "where": Rule(elementwise.where, "where(condition, a, b)", (3, 3)),
    "complex": Rule(elementwise.complex_, "complex(re, im)", (2, 2)),
    "fp32": Rule(elementwise.fp32, "fp32(x)"),
    "sum": Rule(elementwise.reduce, "sum(x, over = axis)", (1, 1), _OVER),
    "mean": Rule(elementwise.reduce, "mean(x, over = axis)", (1, 1), _OVER),
    "softmax": Rule(elementwise.softmax, "softmax(x, over = axis, where = mask)", (1, 1), _OVER | {"where"}),
    "cumsum": Rule(elementwise.along, "cumsum(x, over = axis)", (1, 1), _OVER),
    "argmax": Rule(elementwise.along, "argmax(x, over = axis)", (1, 1), _OVER),
    "top": Rule(elementwise.top, "top(x, k, over = axis)", (2, 2), _OVER, ("over",)),
    "dot": Rule(elementwise.dot, "dot(a, b, over = axis)", (2, 2), _OVER, ("over",)),
    "split": Rule(shapes.split, "split(x, axis -> a b)", arrow=True),
    "merge": Rule(shapes.merge, "merge(x, a b -> axis)", arrow=True),
    "cut": Rule(shapes.cut, "a, b = cut(x, axis -> a b)", arrow=True),
    "join": Rule(shapes.join, "join(x, y, a b -> axis) or join(x, y, -> axis)", (1, 99), arrow=True),
    "pick": Rule(shapes.pick, "pick(x, axis = index)", names=None),
    "index": Rule(shapes.index, "index(axis)"),
    "axes": Rule(shapes.axes, "axes(x)"),
    "conv": Rule(crossing.conv, "conv(x, w[taps axis])", (2, 2)),
    "prev": Rule(crossing.prev, "prev(x)"),
    "scan": Rule(crossing.scan, "scan(decay = a, input = u)", (0, 0), frozenset(_SCAN), _SCAN),
    "maxscan": Rule(crossing.scan, "maxscan(decay = f, input = i)", (0, 0), frozenset(_SCAN), _SCAN),
    "queries": Rule(crossing.queries, "queries(t)"),
    "keys": Rule(crossing.keys, "keys(t)"),
    "window": Rule(crossing.mask, "window(n)"),
    "near": Rule(crossing.mask, "near(n)"),
    "prefix": Rule(crossing.mask, "prefix(n)"),
    "dilated": Rule(crossing.mask, "dilated(n, step)", (2, 2)),
    "normal": Rule(crossing.random, "normal(std)"),
    "uniform": Rule(crossing.random, "uniform(low, high)", (2, 2)),
    "log_uniform": Rule(crossing.random, "log_uniform(low, high)", (2, 2)),
    "orthogonal": Rule(crossing.random, "orthogonal()", (0, 0)),
}

NAMES: frozenset[str] = frozenset(RULES) | frozenset(MASKS) | {"stack"}


def apply(name: str, node: ast.Call, frame: Frame) -> Bound:
    """Calls a builtin: checks the shape of the arguments, then builds."""
    if name not in RULES:
        frame.fail("E102", f"'{name}' takes no arguments", node.callee, help=f"write {name}")
    rule = RULES[name]
    if node.label is not None:
        frame.fail("E113", f"'{name}' has no weights that a label could name", node.label)
    positional: list[ast.Expr] = []
    named: dict[str, ast.Expr] = {}
    arrow: ast.Arrow | None = None
    for arg in node.args:
        if isinstance(arg.value, ast.Arrow):
            if arrow is not None:
                frame.fail("E107", "'->' is given twice", arg)
            arrow = arg.value
        elif arg.name is None:
            positional.append(arg.value)
        else:
            _check_name(arg.name, name, rule, named, frame)
            named[arg.name.text] = arg.value
    given = Given(name, node, frame, rule.usage, tuple(positional), named, arrow)
    _check_shape(given, rule)
    return rule.build(given)


def _check_name(ident: ast.Ident, name: str, rule: Rule, named: dict[str, ast.Expr], frame: Frame) -> None:
    if ident.text in named:
        frame.fail("E107", f"argument '{ident.text}' is given twice", ident)
    if rule.names is not None and ident.text not in rule.names:
        hint = closest(ident.text, rule.names)
        message = f"'{name}' has no argument '{ident.text}'" + (f"; {hint}" if hint else "")
        frame.fail("E103", message, ident, help=f"write {rule.usage}")


def _check_shape(given: Given, rule: Rule) -> None:
    low, high = rule.counts
    count = len(given.positional)
    missing = next((n for n in rule.required if n not in given.named), None)
    if missing is not None:
        given.misused(f"'{given.name}' needs '{missing} ='")
    if given.arrow is not None and not rule.arrow:
        given.frame.fail("E105", f"'{given.name}' takes no '->'", given.arrow, help=f"write {rule.usage}")
    if given.arrow is None and rule.arrow:
        given.misused(f"'{given.name}' needs axes with '->'")
    if not low <= count <= high:
        wants = f"{low}" if low == high else f"{low} or more" if high > 9 else f"{low} to {high}"
        plural = "" if wants == "1" else "s"
        given.misused(f"'{given.name}' takes {wants} value{plural}, not {count}")
