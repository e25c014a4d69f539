"""The stack of layers: one region per distinct pair of block and arguments, and the plan."""

from __future__ import annotations

from archc.ir.graph import Kind, Operand, Type, Value
from archc.ops import cost, memory, support
from archc.ops.base import Attrs, Infer, Op
from archc.ops.frame import Array, Evaluate, Frame, place


def _stack(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    return Type(Kind.TOKEN)


def _stack_out(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    (stack,) = args
    assert isinstance(stack, Value)
    stream = stack.args[attrs["index"]]
    assert isinstance(stream, Value)
    return stream.type


def _run_layers(value: Value, operands: tuple[Array, ...], frame: Frame) -> tuple[Array, ...]:
    """One layer after the other: each region gets the streams, under the prefix of its layer."""
    streams, types = list(operands), [s.type for s in value.operands]
    for layer in value.attrs["layers"]:
        for param, array, kind in zip(layer.region.params, streams, types, strict=True):
            frame.values[param] = place(array, kind, Kind.TOKEN, param.type.axes)
        results = frame.below(layer.prefix).run(layer.region)
        streams = [
            place(array, made.type, Kind.TOKEN, kind.axes)
            for array, made, kind in zip(results, layer.region.results, types, strict=True)
        ]
    return tuple(streams)


def _stream(value: Value, operands: tuple[tuple[Array, ...]], frame: Frame) -> Array:
    index: int = value.attrs["index"]
    return operands[0][index]


def _op(name: str, infer: Infer, reference: Evaluate) -> Op:
    return Op(
        name=name,
        infer=infer,
        reference=reference,
        flops=cost.free,
        support=support.not_a_pair,
        state=memory.nothing,
        flow="control",
        derivative="framework",
    )


OPS = (
    _op(
        "stack", _stack, _run_layers
    ),  # args: the streams that go in; layers: tuple of Layer (region params: the streams)
    _op("stack_out", _stack_out, _stream),  # index of the stream
)
