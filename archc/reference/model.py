"""The stack of layers in NumPy: one layer after the other."""

from __future__ import annotations

from archc.ir.graph import Kind, Value
from archc.reference.frame import Array, Evaluate, Frame, place


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


RULES: dict[str, Evaluate] = {"stack": _run_layers, "stack_out": _stream}
