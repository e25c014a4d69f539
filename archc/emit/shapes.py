"""Rules of the ops that put elements in other places: axes split, merged, cut, joined, and picked from."""

from __future__ import annotations

from archc.emit.body import Body, Rule
from archc.emit.code import Code
from archc.emit.layout import axis_of, indexed, reindex, transposed
from archc.emit.placed import whole
from archc.ir.graph import Kind, Value
from archc.passes.placed import is_placed
from archc.text import ast


def _split(body: Body, value: Value) -> Code:
    (inner,) = value.operands
    into = value.attrs["into"]
    return body.dialect.unflatten(
        body.render(inner), axis_of(inner, value.attrs["axis"]), [body.size(a.name, a.size) for a in into]
    )


def _merge(body: Body, value: Value) -> Code:
    (inner,) = value.operands
    axes: tuple[str, ...] = value.attrs["axes"]
    place = value.names.index(value.attrs["into"])
    code = body.render(inner)
    order = [*value.names[:place], *axes, *value.names[place + 1 :]]
    if list(inner.names) != order:
        code = transposed(code, inner, order, body.dialect)
    after = len(order) - place - len(axes) + (2 if inner.kind is Kind.PAIR else 0)
    return body.dialect.flatten(code, len(axes), after)


def _slice(body: Body, value: Value) -> Code:
    (inner,) = value.operands
    start, size = value.attrs["start"], value.attrs["size"]
    return body.dialect.slice(
        body.render(inner), Code(str(start)), Code(str(start + size)), axis_of(inner, value.attrs["axis"])
    )


def _concat(body: Body, value: Value) -> Code:
    place = axis_of(value, value.attrs["into"])
    codes = []
    for arg, piece in zip(value.operands, value.attrs["pieces"], strict=True):
        if arg.type.sizes[piece]:
            codes.append(_beside(body, value, arg, piece))
    return body.dialect.concat(codes, place)


def _beside(body: Body, value: Value, arg: Value, piece: str) -> Code:
    """One piece, with the axes of the whole; it must really have them all, concatenation does not broadcast."""
    names = [piece if n == value.attrs["into"] else n for n in value.names]
    code = body.render(arg) if is_placed(value) else whole(body, arg)  # of positions alone, all pieces lack the batch
    if list(arg.names) != [n for n in names if n in arg.names]:
        code = transposed(code, arg, [n for n in names if n in arg.names], body.dialect)
    if set(arg.names) != set(names):
        parts = ["...", *(":" if n in arg.names else "None" for n in names)]
        code = indexed(code, parts, arg.kind is Kind.WEIGHT)
    return code


def _stack_axis(body: Body, value: Value) -> Code:
    target = value.type
    inner = type(target)(target.kind, target.axes[:-1], target.dtype, target.wide)
    return body.dialect.stack([reindex(body.render(v), v, inner, body.dialect) for v in value.operands])


def _pick(body: Body, value: Value) -> Code:
    (inner,) = value.operands
    place = axis_of(inner, value.attrs["axis"])
    node = body.call.nodes.get(value)
    at = str(value.attrs["at"])
    if isinstance(node, ast.Call):
        picked = next((a.value for a in node.args if a.name is not None), None)
        if isinstance(picked, ast.Name):
            at = body.numbers.text(picked, "forward").text
    return Code(f"{body.render(inner).atom}[{', '.join(['...', at, *[':'] * (-place - 1)])}]")


SHAPE_RULES: dict[str, Rule] = {
    "split": _split,
    "merge": _merge,
    "slice": _slice,
    "concat": _concat,
    "stack_axis": _stack_axis,
    "pick": _pick,
}
