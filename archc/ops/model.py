"""The stack of layers: one region per distinct pair of block and arguments, and the plan."""

from __future__ import annotations

from archc.ir.graph import Kind, Operand, Type, Value
from archc.ops import cost, memory, support
from archc.ops.base import Attrs, Infer, Op


def _stack(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    return Type(Kind.TOKEN)


def _stack_out(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    (stack,) = args
    assert isinstance(stack, Value)
    stream = stack.args[attrs["index"]]
    assert isinstance(stream, Value)
    return stream.type


def _op(name: str, infer: Infer) -> Op:
    return Op(
        name=name,
        infer=infer,
        flops=cost.free,
        support=support.not_a_pair,
        state=memory.nothing,
        flow="control",
        derivative="framework",
    )


OPS = (
    _op("stack", _stack),  # args: the streams that go in; layers: tuple of Layer (region params: the streams)
    _op("stack_out", _stack_out),  # index of the stream
)
