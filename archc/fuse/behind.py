"""What follows a scan element by element, and so can run in its kernel: up to the first value of other elements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain

from archc.diagnostics import Span
from archc.fuse.on_axes import SHAPES, Group, Placed, only_moves, parted
from archc.fuse.regions import fuses
from archc.ir.graph import Region, Value
from archc.ops.table import OPS
from archc.passes.readout import leaves


@dataclass(frozen=True, eq=False)
class End:
    """What a kernel ends with: `start` is the state or what is read out of it, `result` the last value, `cone` the
    values from there to it."""

    start: Placed
    result: Placed
    cone: frozenset[Placed]


def behind(start: Placed, region: Region, taken: AbstractSet[Value]) -> End:
    """The last value of the same call that is an element-wise function of `start` and the only one that is read
    further on.

    Axes may be merged and split on the way. Without any such value it is `start` itself. `taken` are values that
    another kernel computes. The result is rounded, so it is nothing that other tokens read.
    """
    for end in ends(start, region, taken):
        last = end.result.value
        if end.cone and (only_moves(last) or _crosses_time(last, region)):
            continue  # a kernel stores its result in the precision of its inputs, and in any shape
        return end
    raise AssertionError("the first value of a cone always ends it")


def ends(start: Placed, region: Region, taken: AbstractSet[Value], *, called: bool = False) -> Iterator[End]:
    """All such values, the last first, whoever reads them: `start` itself comes at the end.

    called: what functions called from there compute of them counts, too, if it reads nothing else that has a name only
    inside of the function, but for weights. Such an end is what a function gives back.
    """
    own = start.value.origin.calls
    cone = {start.value: start}
    for value in region.values:
        near = value in region.live and value not in taken and value.origin.calls[: len(own)] == own
        near = near and (value.origin.calls == own or (called and _has_names(value, own, cone)))
        if near and not cone.keys().isdisjoint(value.operands):
            place = _place(value, cone)
            if place is not None:
                cone[value] = place
    for end in reversed(cone):
        between = _between(start.value, end, cone)
        users = chain.from_iterable(region.users.get(v, ()) for v in between - {end})
        closed = all(u in between for u in users) and not any(leaves(v, region) for v in between - {end})
        if closed and _has_left(end, own, region):
            yield End(start, cone[end], frozenset(cone[v] for v in between if v is not start.value))


def _has_names(value: Value, own: tuple[Span, ...], cone: Mapping[Value, Placed]) -> bool:
    """Whether all that a value of a called function is made of is in the cone or has a name where that is called."""
    return all(v in cone or v.op == "weight" or len(v.origin.calls) <= len(own) for v in value.operands)


def _has_left(value: Value, own: tuple[Span, ...], region: Region) -> bool:
    """Whether nothing in the function that makes a value reads it, if that is a called one."""
    inside = value.origin.calls[: len(own) + 1]
    readers = region.users.get(value, ())
    return len(inside) == len(own) or all(u.origin.calls[: len(inside)] != inside for u in readers)


def _place(value: Value, cone: Mapping[Value, Placed]) -> Placed | None:
    """A value made of ones in the cone, if it has no other elements than these."""
    if not (fuses(value) or (value.op in SHAPES and value.type.dtype in ("real", "complex"))):
        return None
    groups: dict[str, Group] = {}
    for operand in value.operands:
        if operand in cone:
            for name, group in zip(operand.names, cone[operand].groups, strict=True):
                if groups.setdefault(name, group) != group:
                    return None
    match value.op:
        case "rename":
            new: Mapping[str, str] = value.attrs["names"]
            groups = {new.get(name, name): group for name, group in groups.items()}
        case "merge":
            groups[value.attrs["into"]] = tuple(a for name in value.attrs["axes"] for a in groups[name])
        case "split":
            pieces = parted(groups[value.attrs["axis"]], {a.name: a.size for a in value.attrs["into"]})
            if pieces is None:
                return None
            groups |= pieces
    found = [groups.get(name) for name in value.names]
    return Placed(value, tuple(g for g in found if g is not None)) if None not in found else None


def _crosses_time(value: Value, region: Region) -> bool:
    """Whether other tokens read an element-wise function of a value."""
    seen: set[Value] = set()
    todo = [value]
    while todo:
        for user in region.users.get(todo.pop(), ()):
            if OPS[user.op].flow == "time":
                return True
            if user not in seen and (fuses(user) or user.op in SHAPES):
                seen.add(user)
                todo.append(user)
    return False


def _between(start: Value, end: Value, cone: dict[Value, Placed]) -> set[Value]:
    """The values of the cone on a way from start to end."""
    out = {end}
    for value in reversed(cone):
        if value in out and value is not start:
            out |= {v for v in value.operands if v in cone}
    return out
