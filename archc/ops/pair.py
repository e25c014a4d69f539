"""Ops on pairs of a query position and a key position: lifts, masks, reductions over keys."""

from __future__ import annotations

from collections.abc import Callable

from archc.ir.graph import Axis, Kind, Operand, Type, Value
from archc.ops import cost, memory, support
from archc.ops.base import Attrs, Infer, Misfit, Op, called, join, join_dtype, require_axes
from archc.ops.cost import Work
from archc.ops.memory import Memory
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


def _op(
    name: str,
    infer: Infer,
    flops: Callable[[Value], Work],
    bound: Callable[[Value, Found], Support],
    state: Callable[[Value], tuple[Memory, ...]] = memory.nothing,
) -> Op:
    return Op(
        name=name,
        infer=infer,
        flops=flops,
        support=bound,
        state=state,
        flow="pair",
        derivative="framework",
    )


OPS = (
    _op("queries", _lift, cost.free, support.everywhere),
    _op("keys", _lift, cost.free, support.everywhere, memory.lifted),  # state
    _op("mask", _mask, cost.free, support.mask),  # name, sizes
    _op("softmax_keys", _softmax_keys, cost.softmax, support.chosen),  # args: scores[, where]
    _op("reduce_keys", _reduce_keys, cost.per_input, support.not_a_pair),  # fn, over (axes besides keys)
    _op("contract_keys", _contract_keys, cost.product_of_sums, support.not_a_pair),  # over (axes besides keys)
)
