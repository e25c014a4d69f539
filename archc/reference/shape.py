"""Ops that only rearrange, in NumPy."""

from __future__ import annotations

import numpy as np

from archc.ir.graph import Axis, Type, Value
from archc.reference.frame import Array, Evaluate, Frame, place, positions


def _unchanged(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    return operands[0]


def _reshaped(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    (array,) = operands
    return np.reshape(array, (*array.shape[: value.kind], *(a.size for a in value.type.axes)))


def _merged(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    (source,) = value.operands
    axes: tuple[str, ...] = value.attrs["axes"]
    sizes = source.type.axes
    order: list[Axis] = []
    for axis in sizes:
        if axis.name == axes[0]:
            order += [next(a for a in sizes if a.name == n) for n in axes]
        elif axis.name not in axes:
            order.append(axis)
    return _reshaped(value, (place(operands[0], source.type, source.kind, tuple(order)),), frame)


def _sliced(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    (axis,) = positions(value.operands[0], (value.attrs["axis"],))
    start: int = value.attrs["start"]
    return np.take(operands[0], np.arange(start, start + value.attrs["size"]), axis=axis)


def _joined(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    """Each piece is spread over the axes that it lacks, then they are put side by side."""
    into = value.attrs["into"]
    placed = []
    for array, source, piece in zip(operands, value.operands, value.attrs["pieces"], strict=True):
        axes = tuple(Axis(piece, source.type.sizes[piece]) if a.name == into else a for a in value.type.axes)
        placed.append(place(array, source.type, value.kind, axes))
    where = int(value.kind) + value.names.index(into)
    shape = np.broadcast_shapes(*(np.delete(p.shape, where) for p in placed))
    spread = [np.broadcast_to(p, np.insert(shape, where, p.shape[where])) for p in placed]
    return np.concatenate(spread, axis=where)


def _stacked(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    one = Type(value.kind, value.type.axes[:-1])
    placed = [place(a, s.type, one.kind, one.axes) for a, s in zip(operands, value.operands, strict=True)]
    return np.stack(np.broadcast_arrays(*placed), axis=-1)


def _picked(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
    (axis,) = positions(value.operands[0], (value.attrs["axis"],))
    return np.asarray(np.take(operands[0], value.attrs["at"], axis=axis))


RULES: dict[str, Evaluate] = {
    "rename": _unchanged,
    "split": _reshaped,
    "merge": _merged,
    "slice": _sliced,
    "concat": _joined,
    "stack_axis": _stacked,
    "pick": _picked,
}
