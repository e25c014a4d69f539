"""Tokens made of positions alone: `pos` [T] of whole documents has no batch, and what needs one must get it."""

from __future__ import annotations

from archc.emit.body import Body
from archc.emit.code import Code, python_name
from archc.ir.graph import Kind, Value
from archc.passes.placed import is_placed
from archc.text import ast


def whole(body: Body, value: Value) -> Code:
    """A token as [B, T, *axes], for what reads its first two axes; the arguments of a unit are so already."""
    code = body.render(value)
    if value.kind is not Kind.TOKEN or value in body.call.arguments.values() or not is_placed(value):
        return code
    return body.dialect.over_time(code, sequence(body), [body.size(a.name, a.size) for a in value.type.axes])


def sequence(body: Body) -> Code:
    """Something that has the batch and the time of this unit."""
    for param in body.call.definition.params:
        bound = body.call.arguments.get(param.name.text)
        if isinstance(bound, Value) and bound.kind is Kind.TOKEN:
            return Code(python_name(param.name.text))
    return Code("tokens" if isinstance(body.call.definition, ast.ModelDef) else "x")
