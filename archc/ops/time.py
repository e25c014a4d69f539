"""Ops that cross time: conv, prev, scan, maxscan, loop, and reductions over the whole sequence."""

from __future__ import annotations

from collections.abc import Callable

from archc.ir.graph import Kind, Operand, Type, Value
from archc.ops import cost, memory, support
from archc.ops.base import Attrs, Flow, Infer, Misfit, Op, called, join, require_axes
from archc.ops.cost import Work
from archc.ops.memory import Memory


def _token(value: Operand, what: str) -> Value:
    if not isinstance(value, Value) or value.kind is not Kind.TOKEN:
        raise Misfit("E309", f"{what} takes a token, this is {called(value)}")
    return value


def _conv(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    """args: x, w; `taps`: the axis of w that x lacks."""
    value = _token(args[0], "conv")
    weight = args[1]
    if not isinstance(weight, Value) or weight.kind is not Kind.WEIGHT:
        raise Misfit("E310", f"conv takes a weight w[taps {' '.join(value.names)}], this is {called(weight)}")
    extra = [n for n in weight.names if n not in value.names]
    missing = [n for n in value.names if n not in weight.names]
    if len(extra) != 1 or missing:
        raise Misfit(
            "E310",
            f"conv is depth-wise: its weight has the axes of the input and one more, the taps; "
            f"{called(weight)} does not",
            help=f"write w[taps {' '.join(value.names)}]",
        )
    return value.type


def _prev(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    return _token(args[0], "prev").type


def _scan(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    whole = join(args)
    if whole.kind is Kind.PAIR:
        raise Misfit("E309", "a scan takes tokens, not pairs")
    entering = args[1]
    wide = isinstance(entering, Value) and entering.type.wide
    return Type(Kind.TOKEN, whole.axes, whole.dtype if whole.dtype == "complex" else "real", wide)


def _loop(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    return Type(Kind.TOKEN)


def _loop_out(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    (loop,) = args
    assert isinstance(loop, Value)
    result = loop.attrs["body"].results[attrs["index"]].type
    states = loop.attrs["body"].params
    axes = states[attrs["index"]].type.axes if attrs["index"] < len(states) else result.axes
    return Type(Kind.TOKEN, axes, result.dtype)


def _reduce_time(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    value = _token(args[0], f"{attrs['fn']} over time")
    require_axes(value, attrs["over"], f"{attrs['fn']} over")
    axes = tuple(a for a in value.type.axes if a.name not in attrs["over"])
    return Type(Kind.SEQ, axes, value.type.dtype, value.type.wide)


def _op(
    name: str,
    infer: Infer,
    flops: Callable[[Value], Work],
    state: Callable[[Value], tuple[Memory, ...]],
    flow: Flow = "time",
) -> Op:
    return Op(
        name=name,
        infer=infer,
        flops=flops,
        support=support.not_a_pair,
        state=state,
        flow=flow,
        derivative="framework",
    )


OPS = (
    _op("conv", _conv, cost.convolution, memory.window),  # args: x, w; taps (axis name); state
    _op("prev", _prev, cost.free, memory.last),  # state
    _op("scan", _scan, cost.recurrence, memory.running),  # args: decay, input; state
    _op("maxscan", _scan, cost.recurrence, memory.running),  # args: decay, input; state
    # args: the starts; body: Region (params: states; results: states, then other names); states
    _op("loop", _loop, cost.free, memory.looped, flow="control"),
    _op("loop_out", _loop_out, cost.free, memory.nothing, flow="control"),  # index into the results
    _op("reduce_time", _reduce_time, cost.per_input, memory.nothing),  # fn, over (axes besides time)
)
