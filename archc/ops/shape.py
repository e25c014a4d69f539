"""Ops that only rearrange: rename, split, merge, slice, concat, stack_axis, pick."""

from __future__ import annotations

from collections.abc import Callable

from archc.ir.graph import Axis, Operand, Type, Value
from archc.ops import cost, memory, support
from archc.ops.base import Attrs, Flow, Infer, Misfit, Op, called, join, require_axes
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


def _op(
    name: str,
    infer: Infer,
    bound: Callable[[Value, Found], Support] = support.keeps,
    flow: Flow = "rearrange",
) -> Op:
    return Op(
        name=name,
        infer=infer,
        flops=cost.free,
        support=bound,
        state=memory.nothing,
        flow=flow,
        derivative="framework",
    )


OPS = (
    _op("rename", _rename, flow="alias"),  # names: old -> new
    _op("split", _split),  # axis, into: tuple of Axis
    _op("merge", _merge),  # axes, into
    _op("slice", _slice),  # axis, start, size, into
    _op("concat", _concat, bound=support.joins),  # pieces, into
    _op("stack_axis", _stack_axis, bound=support.joins),  # into: a new last axis
    _op("pick", _pick),  # axis, at
)
