"""Ops without operands: weights, inputs, positions, indices, parameters of regions, random initial values."""

from __future__ import annotations

import numpy as np

from archc.ir.graph import Axis, Kind, Operand, Type, Value
from archc.ops import cost, memory, support
from archc.ops.base import Attrs, Infer, Op
from archc.ops.frame import Array, Evaluate, Frame


def _given(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    found = attrs["type"]
    assert isinstance(found, Type)
    return found


def _integer_token(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    return Type(Kind.TOKEN, (), "int")


def _index(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    return Type(Kind.WEIGHT, (Axis(attrs["axis"], attrs["size"]),), "real", True)


def _weight_array(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    return frame.weights[frame.name(value.attrs["path"])]


def _input_array(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    return frame.inputs[value.attrs["name"]]


def _pos_array(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    return frame.pos


def _param_array(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    raise AssertionError(f"parameter {value!r} was not handed in")


def _index_array(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    return np.arange(value.attrs["size"], dtype=np.float64)


def _random_array(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    assert frame.draw is not None, "random numbers belong to initial values"
    return frame.draw(value)


def _source(name: str, infer: Infer, reference: Evaluate) -> Op:
    return Op(
        name=name,
        infer=infer,
        reference=reference,
        flops=cost.free,
        support=support.everywhere,
        state=memory.nothing,
        flow="source",
        derivative="framework",
    )


OPS = (
    _source("weight", _given, _weight_array),  # path, type
    _source("input", _integer_token, _input_array),  # name
    _source("pos", _integer_token, _pos_array),
    _source("param", _given, _param_array),  # name, type
    _source("index", _index, _index_array),  # axis, size
    _source("random", _given, _random_array),  # how: normal uniform log_uniform orthogonal; params, type
)
