"""Products of decays and inputs of a scan, as expressions."""

from __future__ import annotations

from archc.emit.body import Body
from archc.emit.code import Code, infix
from archc.emit.layout import reindex
from archc.ir.graph import Axis, Kind, Operand, Type, Value
from archc.passes.scan_class import Factor


def product(body: Body, factors: tuple[Factor, ...], axes: tuple[Axis, ...]) -> Code:
    """The product of factors, with exactly these axes."""
    target = Type(Kind.TOKEN, axes)
    out: Code | None = None
    for factor in factors:
        code = _factor(body, factor.operand, target)
        if out is None:
            out = code if factor.power == 1 else infix("/", Code("1"), code)
        else:
            out = infix("*" if factor.power == 1 else "/", out, code)
    return out if out is not None else Code("1.0")


def _factor(body: Body, operand: Operand, target: Type) -> Code:
    if not isinstance(operand, Value):
        return Code(repr(operand))
    return reindex(body.render(operand), operand, target, body.dialect)
