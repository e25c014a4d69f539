"""Ops on pairs of a query position and a key position: lifts, masks, reductions over keys."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from archc.ir.graph import Axis, Kind, Operand, Type, Value
from archc.ops import cost, memory, support
from archc.ops.base import Attrs, Infer, Misfit, Op, called, join, join_dtype, require_axes
from archc.ops.cost import Work
from archc.ops.frame import FORGOTTEN, Array, Evaluate, Frame, fitted, place, positions, sum_of_products
from archc.ops.memory import Memory
from archc.ops.reduce import extreme, softmax_where
from archc.ops.support import Found, Support

MASKS = {"causal": (), "everything": (), "window": ("n",), "near": ("n",), "prefix": ("n",), "dilated": ("n", "step")}


def _lift(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    value = args[0]
    if not isinstance(value, Value) or value.kind is not Kind.TOKEN:
        raise Misfit("E311", f"queries(...) and keys(...) take a token, this is {called(value)}")
    return Type(Kind.PAIR, value.type.axes, value.type.dtype, value.type.wide)


def _mask(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    return Type(Kind.PAIR, (), "bool")


def _pair(value: Operand, what: str) -> Value:
    if not isinstance(value, Value) or value.kind is not Kind.PAIR:
        raise Misfit(
            "E312", f"{what} needs a pair, this is {called(value)}", help="say keys(...) for what belongs to the key"
        )
    return value


def _softmax_keys(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    scores = _pair(args[0], "softmax over keys")
    if len(args) > 1:
        _pair(args[1], "the mask")
    whole = join(args, "real")
    return Type(Kind.PAIR, whole.axes, "real", scores.type.wide)


def _reduce_keys(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    value = _pair(args[0], f"{attrs['fn']} over keys")
    over = attrs["over"]
    require_axes(value, over, f"{attrs['fn']} over")
    axes = tuple(a for a in join(args).axes if a.name not in over)
    return Type(Kind.TOKEN, axes, value.type.dtype, value.type.wide)


def _contract_keys(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    whole = join(args)
    if whole.kind is not Kind.PAIR:
        raise Misfit("E312", "a sum over keys needs a pair", help="say keys(...) for what belongs to the key")
    over = attrs["over"]
    left, right = (a for a in args if isinstance(a, Value))
    first = [a for a in left.type.axes if a.name not in over]
    second: list[Axis] = [a for a in right.type.axes if a.name not in over and a.name not in left.names]
    return Type(Kind.TOKEN, (*first, *second), join_dtype(args), False)


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


def _op(
    name: str,
    infer: Infer,
    reference: Evaluate,
    flops: Callable[[Value], Work],
    bound: Callable[[Value, Found], Support],
    state: Callable[[Value], tuple[Memory, ...]] = memory.nothing,
) -> Op:
    return Op(
        name=name,
        infer=infer,
        reference=reference,
        flops=flops,
        support=bound,
        state=state,
        flow="pair",
        derivative="framework",
    )


OPS = (
    _op("queries", _lift, _for_queries, cost.free, support.everywhere),
    _op("keys", _lift, _for_keys, cost.free, support.everywhere, memory.lifted),  # state
    _op("mask", _mask, _mask_array, cost.free, support.mask),  # name, sizes
    _op("softmax_keys", _softmax_keys, _attention_weights, cost.softmax, support.chosen),  # args: scores[, where]
    _op("reduce_keys", _reduce_keys, _over_keys, cost.per_input, support.not_a_pair),  # fn, over (axes besides keys)
    _op("contract_keys", _contract_keys, _mixed, cost.product_of_sums, support.not_a_pair),  # over (axes besides keys)
)
