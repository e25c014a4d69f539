"""Ops that only rearrange: rename, split, merge, slice, concat, stack_axis, pick."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from archc.ir.graph import Axis, Operand, Type, Value
from archc.ops import cost, memory, support
from archc.ops.base import Attrs, Flow, Infer, Misfit, Op, called, join, require_axes
from archc.ops.frame import Array, Evaluate, Frame, place, positions
from archc.ops.support import Found, Support


def _with(value: Value, axes: tuple[Axis, ...]) -> Type:
    names = [a.name for a in axes]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise Misfit("E307", f"{called(value)} would have two axes '{twice}'", other=value)
    return Type(value.kind, axes, value.type.dtype, value.type.wide)


def _rename(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    (value,) = args
    assert isinstance(value, Value)
    names: dict[str, str] = attrs["names"]
    return _with(value, tuple(Axis(names.get(a.name, a.name), a.size) for a in value.type.axes))


def _split(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    (value,) = args
    assert isinstance(value, Value)
    axis, into = attrs["axis"], attrs["into"]
    require_axes(value, (axis,), "split")
    out: list[Axis] = []
    for each in value.type.axes:
        out += into if each.name == axis else [each]
    return _with(value, tuple(out))


def _merge(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    """`axes` become `into`, at the place of the first of them, in the order given."""
    (value,) = args
    assert isinstance(value, Value)
    axes: tuple[str, ...] = attrs["axes"]
    require_axes(value, axes, "merge")
    size = 1
    for name in axes:
        size *= value.type.sizes[name]
    out: list[Axis] = []
    for each in value.type.axes:
        if each.name == axes[0]:
            out.append(Axis(attrs["into"], size))
        elif each.name not in axes:
            out.append(each)
    return _with(value, tuple(out))


def _slice(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    (value,) = args
    assert isinstance(value, Value)
    require_axes(value, (attrs["axis"],), "cut")
    piece = Axis(attrs["into"], attrs["size"])
    return _with(value, tuple(piece if a.name == attrs["axis"] else a for a in value.type.axes))


def _concat(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    """Each argument has its own piece axis of `pieces`; they become `into` at the place it has in the first."""
    pieces: tuple[str, ...] = attrs["pieces"]
    values = [a for a in args if isinstance(a, Value)]
    total = 0
    for value, piece in zip(values, pieces, strict=True):
        require_axes(value, (piece,), "join")
        total += value.type.sizes[piece]
    whole = join(tuple(_as(v, p) for v, p in zip(values, pieces, strict=True)))
    axes = tuple(Axis(attrs["into"], total) if a.name == "\0" else a for a in whole.axes)
    return Type(whole.kind, axes, whole.dtype, whole.wide)


def _as(value: Value, piece: str) -> Value:
    """A stand-in whose piece axis has a neutral name, so that the others can be joined."""
    axes = tuple(Axis("\0", 0) if a.name == piece else a for a in value.type.axes)
    kind = Type(value.kind, axes, value.type.dtype, value.type.wide)
    return Value(-1, value.op, (), kind, {}, value.origin, value.label)


def _stack_axis(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    whole = join(args)
    if attrs["into"] in whole.names:
        raise Misfit("E307", f"the values already have an axis '{attrs['into']}'")
    return Type(whole.kind, (*whole.axes, Axis(attrs["into"], len(args))), whole.dtype, whole.wide)


def _pick(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    (value,) = args
    assert isinstance(value, Value)
    require_axes(value, (attrs["axis"],), "pick")
    size = value.type.sizes[attrs["axis"]]
    if not 0 <= attrs["at"] < size:
        raise Misfit("E308", f"pick takes index {attrs['at']} of '{attrs['axis']}', which has {size} from 0")
    return _with(value, tuple(a for a in value.type.axes if a.name != attrs["axis"]))


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


def _op(
    name: str,
    infer: Infer,
    reference: Evaluate,
    bound: Callable[[Value, Found], Support] = support.keeps,
    flow: Flow = "rearrange",
) -> Op:
    return Op(
        name=name,
        infer=infer,
        reference=reference,
        flops=cost.free,
        support=bound,
        state=memory.nothing,
        flow=flow,
        derivative="framework",
    )


OPS = (
    _op("rename", _rename, _unchanged, flow="alias"),  # names: old -> new
    _op("split", _split, _reshaped),  # axis, into: tuple of Axis
    _op("merge", _merge, _merged),  # axes, into
    _op("slice", _slice, _sliced),  # axis, start, size, into
    _op("concat", _concat, _joined, bound=support.joins),  # pieces, into
    _op("stack_axis", _stack_axis, _stacked, bound=support.joins),  # into: a new last axis
    _op("pick", _pick, _picked),  # axis, at
)
