"""Reductions over feature axes in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from archc.ir.graph import Value
from archc.reference.frame import Array, Evaluate, Frame, fitted, positions

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


RULES: dict[str, Evaluate] = {
    "reduce": _folded,
    "softmax": _normalised,
    "cumsum": _prefix_sums,
    "argmax": _largest,
    "top": _is_top,
}
