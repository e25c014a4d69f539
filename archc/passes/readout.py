"""How the state of a scan is read: the contractions that consume it, through linear ops, or that it escapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from archc.ir.graph import Region, Value, captures, regions_of


@dataclass(frozen=True, eq=False)
class ReadOut:
    """One contraction of the state.

    `value`: its result; `over`: the axes contracted, as the scan calls them; `query`: what the state is multiplied
    with; `before`: through `prev`; `bonus`: what is added to the state before; `path`: every value from the state to
    the result, the result last.
    """

    value: Value
    over: frozenset[str]
    query: Value
    before: bool
    bonus: Value | None
    path: tuple[Value, ...]


@dataclass(frozen=True)
class _Way:
    """A value that is the state up to names, `prev` and an addition; `names`: its axes as the scan calls them."""

    value: Value
    names: Mapping[str, str]
    before: bool = False
    bonus: Value | None = None
    path: tuple[Value, ...] = ()

    def to(self, value: Value) -> _Way:
        return _Way(value, self.names, self.before, self.bonus, (*self.path, value))


def read_outs(scan: Value, region: Region) -> tuple[ReadOut, ...] | None:
    """All contractions of a scan's state, or None if it is used in any other way."""
    out: list[ReadOut] = []
    reached: set[Value] = {scan}
    todo = [_Way(scan, {n: n for n in scan.names})]
    while todo:
        way = todo.pop()
        users = region.users.get(way.value, ())
        if not users or leaves(way.value, region):
            return None
        for user in users:
            read = _read(way, user, region)
            if read is not None:
                out.append(read)
                continue
            further = _further(way, user)
            if further is None:
                return None
            reached.add(user)
            todo.append(further)
    if any(r.bonus in reached or r.query in reached for r in out):
        return None
    return tuple(out)


def read_before(scan: Value, region: Region) -> Value | None:
    """The `prev` of the same call that is all that reads a state, if there is one."""
    users = region.users.get(scan, ())
    if len(users) != 1 or users[0].op != "prev" or leaves(scan, region):
        return None
    return users[0] if users[0].origin.calls == scan.origin.calls else None


def leaves(value: Value, region: Region) -> bool:
    """Whether a value is a result of the region, or used by a region inside of it."""
    inner = (r for v in region.values if v in region.live for r in regions_of(v))
    return value in region.results or any(value in captures(r) for r in inner)


def _further(way: _Way, user: Value) -> _Way | None:
    """The way through an op that leaves the state what it is; None if the op does anything else with it."""
    match user.op:
        case "fp32" | "narrow":
            return way.to(user)
        case "rename":
            renamed: dict[str, str] = user.attrs["names"]
            names = {renamed.get(n, n): scan for n, scan in way.names.items()}
            return _Way(user, names, way.before, way.bonus, (*way.path, user))
        case "prev" if not way.before and way.bonus is None:
            return _Way(user, way.names, True, None, (*way.path, user))
        case "add" if way.bonus is None:
            (other,) = (a for a in user.args if a is not way.value) if user.args[0] is not user.args[1] else (None,)
            if isinstance(other, Value) and set(other.names) <= set(way.names):
                return _Way(user, way.names, way.before, other, (*way.path, user))
    return None


def _read(way: _Way, user: Value, region: Region) -> ReadOut | None:
    """A contraction of the state with one other value: `dot`, or `sum` of a product."""
    over: tuple[str, ...]
    if user.op == "contract" and "made" in user.attrs:
        return None  # a projection by a matrix: the state itself goes on
    if user.op == "contract":
        over, result, path = user.attrs["over"], user, (*way.path, user)
    elif user.op == "mul":
        sums = region.users.get(user, ())
        if len(sums) != 1 or sums[0].op != "reduce" or sums[0].attrs["fn"] != "sum" or leaves(user, region):
            return None
        over, result, path = sums[0].attrs["over"], sums[0], (*way.path, user, sums[0])
    else:
        return None
    others = [a for a in user.args if a is not way.value]
    if len(others) != 1 or not isinstance(others[0], Value) or not set(over) & set(way.names):
        return None
    return ReadOut(
        result, frozenset(way.names[n] for n in over if n in way.names), others[0], way.before, way.bonus, path
    )
