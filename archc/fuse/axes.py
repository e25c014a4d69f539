"""Which axes of pairs are heads: those that are one with an axis of the pairs that come in or that go out.

Every other axis, such as a rank, is unrolled.
"""

from __future__ import annotations

from archc.fuse.mixing import PART_OF, Outside
from archc.ir.graph import Value

Place = tuple[Value, str]


class Axes:
    """Which axes of values are one, followed through ops: those of one name, or of the name that replaced another."""

    def __init__(self, values: set[Value]) -> None:
        self.parent: dict[Place, Place] = {}
        for value in values:
            old = {new: old for old, new in value.attrs["names"].items()} if value.op == "rename" else {}
            mine = [] if value.op in PART_OF else [v for v in value.operands if v in values]
            for operand in mine:
                for name in value.names:
                    if old.get(name, name) in operand.names:
                        self.join((value, name), (operand, old.get(name, name)))
            for name in mine[0].names if len(mine) > 1 else ():
                for other in mine[1:]:
                    if name in other.names:
                        self.join((mine[0], name), (other, name))

    def join(self, one: Place, other: Place) -> None:
        """The two are one from now on."""
        self.parent[self.of(*one)] = self.of(*other)

    def of(self, value: Value, name: str) -> Place:
        """What stands for all axes that are one with this."""
        axis = (value, name)
        while axis in self.parent and self.parent[axis] != axis:
            axis = self.parent[axis]
        return axis


def heads_of(axes: Axes, source: Value, target: Value) -> tuple[dict[Place, int], tuple[str, ...]]:
    """The place among the heads of every axis that is one, and the axes of the target in that order."""
    found = {axes.of(source, name): i for i, name in enumerate(source.names)}
    if len(source.names) != len(target.names):
        raise Outside("the number of axes of the heads changes")
    free = [i for i in range(len(source.names)) if i not in {found.get(axes.of(target, n)) for n in target.names}]
    for name in target.names:
        if axes.of(target, name) not in found:
            named = [i for i in free if source.names[i] == name]
            place = (named or free)[0]
            free.remove(place)
            found[axes.of(target, name)] = place
    order = sorted(target.names, key=lambda name: found[axes.of(target, name)])
    if any(source.type.sizes[a] != target.type.sizes[b] for a, b in zip(source.names, order, strict=True)):
        raise Outside("the number of heads changes")
    return found, tuple(order)
