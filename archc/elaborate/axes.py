"""Axes where they are written: lists for `over` and `per`, declarations with sizes, arrows."""

from __future__ import annotations

from archc.diagnostics import closest
from archc.elaborate.bound import Axes, Num
from archc.elaborate.frame import Frame
from archc.ir.graph import Axis, Value
from archc.text import ast


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
            bound = frame.walker.evaluate(node, frame)
            if not isinstance(bound, Axes):
                frame.fail("E220", "axis names expected", node, help="write one name, [a b], or axes(x)")
            found = bound
    frame.call.facts[node] = found
    return found


def plain_axes(axes: tuple[ast.AxisRef, ...], frame: Frame) -> tuple[str, ...]:
    """The names on one side of an arrow; a parameter that holds axes stands for them."""
    out: list[str] = []
    for axis in axes:
        bound = frame.scope.find(axis.name)
        out += bound.names if isinstance(bound, Axes) and not axis.primes else [axis.text]
    return tuple(out)


def axis_size(name: str, node: ast.Node, frame: Frame, near: Value | None = None) -> int:
    """The size of an axis by its name: a number of that name, or the axis of a value in scope."""
    base = name.rstrip("'")
    bound = frame.scope.find(base)
    if isinstance(bound, Num):
        return frame.size(bound, node, name)
    if near is not None and base in near.names:
        return near.type.sizes[base]
    size = frame.scope.find_axis(base)
    if size is None:
        hint = closest(base, frame.scope.visible())
        frame.fail(
            "E202",
            f"axis '{name}' has no size here" + (f"; {hint}" if hint else ""),
            node,
            help=f"define a number '{base}', or write [{base} = ...]",
        )
    return size


def declared_axes(declared: tuple[ast.AxisDecl, ...], frame: Frame, near: Value | None = None) -> tuple[Axis, ...]:
    """Axes of a weight or a state with their sizes; `near` is the value left of `@`, whose axes are in scope too."""
    out: list[Axis] = []
    for each in declared:
        bound = frame.scope.find(each.axis.name)
        if isinstance(bound, Axes) and each.size is None:
            out += [Axis(n + "'" * each.axis.primes, axis_size(n, each, frame, near)) for n in bound.names]
            continue
        if each.size is not None:
            size = frame.size(frame.walker.evaluate(each.size, frame), each.size, each.axis.text)
        else:
            size = axis_size(each.axis.text, each, frame, near)
        out.append(Axis(each.axis.text, size))
    names = [a.name for a in out]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        frame.fail("E307", f"axis '{twice}' stands twice", declared[0].span.to(declared[-1].span))
    return tuple(out)
