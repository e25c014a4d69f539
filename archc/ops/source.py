"""Ops without operands: weights, inputs, positions, indices, parameters of regions, random initial values."""

from __future__ import annotations

from archc.ir.graph import Axis, Kind, Operand, Type
from archc.ops import cost, memory, support
from archc.ops.base import Attrs, Infer, Op


def _given(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    found = attrs["type"]
    assert isinstance(found, Type)
    return found


def _integer_token(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    return Type(Kind.TOKEN, (), "int")


def _index(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    return Type(Kind.WEIGHT, (Axis(attrs["axis"], attrs["size"]),), "real", True)


def _source(name: str, infer: Infer) -> Op:
    return Op(
        name=name,
        infer=infer,
        flops=cost.free,
        support=support.everywhere,
        state=memory.nothing,
        flow="source",
        derivative="framework",
    )


OPS = (
    _source("weight", _given),  # path, type
    _source("input", _integer_token),  # name
    _source("pos", _integer_token),
    _source("param", _given),  # name, type
    _source("index", _index),  # axis, size
    _source("random", _given),  # how: normal uniform log_uniform orthogonal; params, type
)
