"""Values of the graph on the axes of a scan, followed through renaming, splitting and merging."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from archc.ir.graph import Axis, Operand, Value
from archc.ops.table import OPS

Group = tuple[Axis, ...]
"""The axes of the scan that one axis of a value is made of, in this order."""


@dataclass(frozen=True)
class Placed:
    """A value, and for each of its axes, in its own order, what it is in axes of the scan."""

    value: Value
    groups: tuple[Group, ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """All these axes in a row, as the scan calls them."""
        return tuple(a.name for group in self.groups for a in group)

    def operands(self) -> tuple[Placed | float, ...]:
        """What it is computed from."""
        groups = dict(zip(self.value.names, self.groups, strict=True))
        attrs = self.value.attrs
        match self.value.op:
            case "rename":
                old = {new: old for old, new in attrs["names"].items()}
                groups |= {old.get(n, n): group for n, group in groups.items()}
            case "split":
                groups[attrs["axis"]] = tuple(a for each in attrs["into"] for a in groups[each.name])
            case "merge":
                sizes = self.value.operands[0].type.sizes
                pieces = parted(groups[attrs["into"]], {name: sizes[name] for name in attrs["axes"]})
                assert pieces is not None, f"{self.value} was placed without its operand"
                groups |= pieces
        return tuple(
            Placed(a, tuple(groups[n] for n in a.names)) if isinstance(a, Value) else float(a) for a in self.value.args
        )


def placed(value: Value) -> Placed:
    """A value that has the axes of the scan by their names."""
    return Placed(value, tuple((a,) for a in value.type.axes))


def factor(operand: Operand) -> Placed | float:
    """An operand of the scan itself."""
    return placed(operand) if isinstance(operand, Value) else float(operand)


def parted(group: Group, sizes: Mapping[str, int]) -> dict[str, Group] | None:
    """Axes in a row cut into groups of these sizes, by the names of the groups; None if an axis would be cut.

    >>> parted((Axis("a", 2), Axis("b", 3), Axis("c", 5)), {"x": 6, "y": 5})
    {'x': (Axis(name='a', size=2), Axis(name='b', size=3)), 'y': (Axis(name='c', size=5),)}
    >>> parted((Axis("a", 6),), {"x": 2, "y": 3})
    """
    out: dict[str, Group] = {}
    rest = list(group)
    for name, size in sizes.items():
        taken: list[Axis] = []
        while rest and (not taken or prod(a.size for a in taken) < size):
            taken.append(rest.pop(0))
        if not taken or prod(a.size for a in taken) != size:
            return None
        out[name] = tuple(taken)
    return None if rest else out


SHAPES = ("merge", "split")


def only_moves(value: Value) -> bool:
    """Whether a value is another one in other words: with other names, in another shape or precision."""
    return OPS[value.op].flow == "alias" or value.op in SHAPES
