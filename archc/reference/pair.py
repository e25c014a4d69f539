"""Ops on pairs of a query position and a key position in NumPy."""

from __future__ import annotations

import numpy as np

from archc.ir.graph import Kind, Type, Value
from archc.reference.frame import FORGOTTEN, Array, Evaluate, Frame, fitted, place, positions, sum_of_products
from archc.reference.reduce import extreme, softmax_where


def _for_queries(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    return operands[0][:, :, None]


def _for_keys(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    """All tokens since the start: those still in the cache, and `FORGOTTEN` for those before.

    A cache that holds n tokens has room for n - 1 besides the present one.
    """
    (new,) = operands
    name = frame.name(value.attrs["state"])
    bound = frame.kept.get(name, np.inf)
    known = new
    if name in frame.state:
        old = frame.state[name]
        known = np.concatenate([old[:, old.shape[1] - int(min(bound - 1, old.shape[1])) :], new], axis=1)
    frame.state[name] = known[:, known.shape[1] - int(min(bound, known.shape[1])) :]
    shape = (known.shape[0], frame.past.shape[1] - known.shape[1], *known.shape[2:])
    return np.concatenate([np.full(shape, FORGOTTEN).astype(known.dtype), known], axis=1)[:, None]


def _mask_array(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    """Whether the key at distance d before the query may be seen, [B, T, S]."""
    d: Array = frame.distance[None]
    seen: Array
    match value.attrs["name"], value.attrs.get("sizes", ()):
        case "causal", ():
            seen = d >= 0
        case "everything", ():
            seen = np.ones_like(d, dtype=bool)
        case "window", (n,):
            seen = (d >= 0) & (d < n)
        case "near", (n,):
            seen = np.abs(d) <= n
        case "dilated", (n, step):
            seen = (d >= 0) & (d < n * step) & (d % step == 0)
        case "prefix", (n,):
            seen = frame.past[:, None, :] < n
        case name:
            raise AssertionError(f"no mask {name}")
    return seen


def _seen(frame: Frame, which: Array, value: Value) -> Array:
    """A [B, T, S] selection that broadcasts against the pairs of a value."""
    return place(which, Type(Kind.PAIR), Kind.PAIR, value.type.axes)


def _attention_weights(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    scores, *where = fitted(value, operands)
    seen = _seen(frame, frame.together, value)
    return softmax_where(scores, seen & where[0] if where else seen, (2,))


def _over_keys(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    """Over the keys of the document at which the operand may be non-zero; zero if there are none."""
    (source,) = value.operands
    array, seen = np.broadcast_arrays(operands[0], _seen(frame, frame.visible(source), source))
    axes = (2, *positions(source, value.attrs["over"]))
    if value.attrs["fn"] in ("max", "min"):
        return extreme(value.attrs["fn"], array, axes, seen)
    total = np.sum(array, axis=axes, where=seen)
    if value.attrs["fn"] == "sum":
        return np.asarray(total)
    return np.asarray(total / np.maximum(np.sum(seen, axis=axes), 1))


def _mixed(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    left, right = zip(operands, value.operands, strict=True)
    return sum_of_products(left, right, value.type, frame.together)


RULES: dict[str, Evaluate] = {
    "queries": _for_queries,
    "keys": _for_keys,
    "mask": _mask_array,
    "softmax_keys": _attention_weights,
    "reduce_keys": _over_keys,
    "contract_keys": _mixed,
}
