"""Axes where they are written: lists for `over` and `per`, declarations with sizes, arrows."""

from __future__ import annotations

from archc.diagnostics import Span, closest
from archc.elaborate.bound import Axes, Poison
from archc.elaborate.frame import Frame, Poisoned
from archc.elaborate.numbers import Num
from archc.ir.graph import Axis, Value
from archc.text import ast

RESERVED = {"keys": "all keys of a query", "time": "the whole sequence"}
"""What `over =` knows besides axes: no axis has these names."""


def axis_names(node: ast.Expr, frame: Frame) -> Axes:
    """The value of `over =` or `per =`: one name, a list, a parameter that holds axes, `axes(x)`."""
    match node:
        case ast.Name():
            bound = frame.scope.find(node.text)
            found = bound if isinstance(bound, Axes) else Axes((node.text,))
        case ast.AxisList():
            found = Axes(tuple(a.text for a in node.axes))
        case ast.ListExpr():
            parts = [axis_names(entry, frame) for entry in node.entries]
            found = Axes(tuple(n for p in parts for n in p.names))
        case _:
            evaluated = frame.walker.evaluate(node, frame)
            if not isinstance(evaluated, Axes):
                frame.fail("E220", "axis names expected", node, help="write one name, [a b], or axes(x)")
            found = evaluated
    _once(found.names, node, frame)
    frame.call.facts[node] = found
    return found


def _once(names: tuple[str, ...], node: ast.Node | Span, frame: Frame) -> None:
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        frame.fail("E307", f"axis '{twice}' stands twice", node)


def side(axes: tuple[ast.AxisRef, ...], frame: Frame, repeats: bool = False) -> tuple[str, ...]:
    """The names on one side of an arrow; a parameter that holds axes stands for them."""
    out: list[str] = []
    for axis in axes:
        bound = frame.scope.find(axis.name)
        out += bound.names if isinstance(bound, Axes) and not axis.primes else [axis.text]
        _not_reserved(axis, frame)
    if not repeats:
        _once(tuple(out), axes[0].span.to(axes[-1].span), frame)
    return tuple(out)


def _not_reserved(axis: ast.AxisRef, frame: Frame) -> None:
    if axis.name in RESERVED:
        frame.fail(
            "E313",
            f"an axis cannot be called '{axis.name}'",
            axis,
            help=f"'over = {axis.name}' means {RESERVED[axis.name]}",
        )


def axis_in_scope(text: str, node: ast.Node, frame: Frame) -> Num | None:
    """The size of an axis that a visible value has, as a number; None if there is no such axis."""
    found = frame.scope.find_axis(text)
    if len(found) > 1:
        which = " and ".join(f"{size} in '{label}'" for size, label in sorted(found.items()))
        frame.fail("E204", f"axis '{text}' has two sizes here: {which}", node)
    for size in found:
        return Num(ast.Number(node.span, str(size)).value, frame.shelf.recall(text, size))
    return None


def axis_size(name: str, node: ast.Node, frame: Frame, near: Value | None = None, least: int = 0) -> int:
    """The size of an axis by its name: a number of that name, or the axis of a value in scope."""
    base = name.rstrip("'")
    bound = frame.scope.find(base)
    if isinstance(bound, Num):
        return frame.size(bound, node, name, least)
    if isinstance(bound, Poison):
        raise Poisoned
    if near is not None and base in near.names:
        return near.type.sizes[base]
    found = axis_in_scope(base, node, frame)
    if found is None and bound is not None:
        frame.number(bound, node, f"the size of '{name}'")
    if found is None:
        hint = closest(base, frame.scope.visible())
        frame.fail(
            "E202",
            f"axis '{name}' has no size here" + (f"; {hint}" if hint else ""),
            node,
            help=f"define a number '{base}', or write [{base} = ...]",
        )
    return frame.size(found, node, name, least)


def declared_axes(declared: tuple[ast.AxisDecl, ...], frame: Frame, near: Value | None = None) -> tuple[Axis, ...]:
    """Axes of a weight or a state with their sizes; `near` is the value left of `@`, whose axes are in scope too."""
    out: list[Axis] = []
    for each in declared:
        _not_reserved(each.axis, frame)
        bound = frame.scope.find(each.axis.name) if each.size is None else None
        if isinstance(bound, Axes):
            names = [n + "'" * each.axis.primes for n in bound.names]
            out += [Axis(n, axis_size(n, each, frame, near, 1)) for n in names]
        elif each.size is not None:
            size = frame.size(frame.walker.evaluate(each.size, frame), each.size, each.axis.text, 1)
            out.append(Axis(each.axis.text, size))
        else:
            out.append(Axis(each.axis.text, axis_size(each.axis.text, each, frame, near, 1)))
    names = [a.name for a in out]
    for place, each in enumerate(declared):
        if each.axis.text in names[:place]:
            frame.fail("E307", f"axis '{each.axis.text}' stands twice", each)
    return tuple(out)
