"""Reductions over feature axes: sum, mean, max, min, softmax, cumsum, argmax, top."""

from __future__ import annotations

from collections.abc import Callable

from archc.ir.graph import Operand, Type, Value
from archc.ops import cost, memory, support
from archc.ops.base import Attrs, Infer, Misfit, Op, join, require_axes
from archc.ops.cost import Work
from archc.ops.support import Found, Support


def _value(args: tuple[Operand, ...], what: str) -> Value:
    if not isinstance(args[0], Value):
        raise Misfit("E305", f"{what} takes a value with axes, not a number")
    return args[0]


def _reduce(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    value = _value(args, attrs["fn"])
    require_axes(value, attrs["over"], f"{attrs['fn']} over")
    axes = tuple(a for a in value.type.axes if a.name not in attrs["over"])
    statistic = attrs["fn"] == "mean" and value.type.dtype == "real"
    dtype = "real" if value.type.dtype in ("bool", "int") and attrs["fn"] == "mean" else value.type.dtype
    return Type(value.kind, axes, "int" if dtype == "bool" else dtype, value.type.wide or statistic)


def _softmax(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    require_axes(_value(args, "softmax"), attrs["over"], "softmax over")
    return join(args, "real")


def _cumsum(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    value = _value(args, "cumsum")
    require_axes(value, attrs["over"], "cumsum over")
    return value.type


def _argmax(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    value = _value(args, "argmax")
    require_axes(value, attrs["over"], "argmax over")
    return Type(value.kind, tuple(a for a in value.type.axes if a.name not in attrs["over"]), "int")


def _top(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    value = _value(args, "top")
    require_axes(value, attrs["over"], "top over")
    size = value.type.sizes[attrs["over"][0]]
    if not 1 <= attrs["k"] <= size:
        raise Misfit("E306", f"top takes the {attrs['k']} largest of {size}")
    return Type(value.kind, value.type.axes, "bool")


def _op(
    name: str,
    infer: Infer,
    flops: Callable[[Value], Work] = cost.per_input,
    bound: Callable[[Value, Found], Support] = support.everywhere,
) -> Op:
    return Op(
        name=name,
        infer=infer,
        flops=flops,
        support=bound,
        state=memory.nothing,
        flow="mix",
        derivative="framework",
    )


OPS = (
    _op("reduce", _reduce, bound=support.keeps),  # fn: sum mean max min; over
    _op("softmax", _softmax, flops=cost.softmax),  # args: value[, where]; over
    _op("cumsum", _cumsum, bound=support.keeps),  # over: one axis
    _op("argmax", _argmax),  # over: one axis
    _op("top", _top),  # k, over: one axis
)
