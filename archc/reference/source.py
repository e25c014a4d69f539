"""Ops without operands in NumPy: what the frame holds, indices, random numbers."""

from __future__ import annotations

import numpy as np

from archc.ir.graph import Value
from archc.reference.frame import Array, Evaluate, Frame


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


RULES: dict[str, Evaluate] = {
    "weight": _weight_array,
    "input": _input_array,
    "pos": _pos_array,
    "param": _param_array,
    "index": _index_array,
    "random": _random_array,
}
