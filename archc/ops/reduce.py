"""Reductions over feature axes: sum, mean, max, min, softmax, cumsum, argmax, top."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from archc.ir.graph import Operand, Type, Value
from archc.ops import cost, memory, support
from archc.ops.base import Attrs, Infer, Misfit, Op, join, require_axes
from archc.ops.cost import Work
from archc.ops.frame import Array, Evaluate, Frame, fitted, positions
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


FOLD: dict[str, Callable[..., Array]] = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min}


def softmax_where(scores: Array, where: Array, axes: tuple[int, ...]) -> Array:
    """exp(s) / sum exp(s) over the places where `where` is true, zero elsewhere; all zero if there is no such place."""
    scores, where = np.broadcast_arrays(np.asarray(scores, np.float64), where)
    top = np.max(scores, axis=axes, keepdims=True, where=where, initial=-np.inf)
    weights = np.where(where, np.exp(np.where(where, scores - np.where(np.isfinite(top), top, 0), 0)), 0)
    total = weights.sum(axis=axes, keepdims=True)
    return np.asarray(weights / np.where(total == 0, 1, total))


def extreme(fn: str, array: Array, axes: tuple[int, ...], where: Array) -> Array:
    """The maximum or minimum of the chosen elements, in their own element type; 0 where none is chosen."""
    none = -np.inf if fn == "max" else np.inf
    out = FOLD[fn](array.astype(np.float64), axis=axes, where=where, initial=none)
    return np.asarray(np.where(np.isfinite(out), out, 0).astype(array.dtype))


def _folded(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    axes = positions(value.operands[0], value.attrs["over"])
    return np.asarray(FOLD[value.attrs["fn"]](operands[0], axis=axes))


def _normalised(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    scores, *where = fitted(value, operands)
    return softmax_where(scores, where[0] if where else np.array(True), positions(value, value.attrs["over"]))


def _prefix_sums(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    (axis,) = positions(value.operands[0], value.attrs["over"])
    return np.cumsum(operands[0], axis=axis)


def _largest(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    (axis,) = positions(value.operands[0], value.attrs["over"])
    return np.asarray(np.argmax(operands[0], axis=axis))


def _is_top(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    """True at the k largest; of equals the first."""
    (axis,) = positions(value.operands[0], value.attrs["over"])
    order = np.argsort(-operands[0], axis=axis, kind="stable")
    return np.asarray(np.argsort(order, axis=axis, kind="stable") < value.attrs["k"])


def _op(
    name: str,
    infer: Infer,
    reference: Evaluate,
    flops: Callable[[Value], Work] = cost.per_input,
    bound: Callable[[Value, Found], Support] = support.everywhere,
) -> Op:
    return Op(
        name=name,
        infer=infer,
        reference=reference,
        flops=flops,
        support=bound,
        state=memory.nothing,
        flow="mix",
        derivative="framework",
    )


OPS = (
    _op("reduce", _reduce, _folded, bound=support.keeps),  # fn: sum mean max min; over
    _op("softmax", _softmax, _normalised, flops=cost.softmax),  # args: value[, where]; over
    _op("cumsum", _cumsum, _prefix_sums, bound=support.keeps),  # over: one axis
    _op("argmax", _argmax, _largest),  # over: one axis
    _op("top", _top, _is_top),  # k, over: one axis
)
