"""Which values a gradient flows through: from an output, on the way to a trained weight."""

from __future__ import annotations

from archc.ir.graph import Graph, Region, Value, captures, regions_of
from archc.passes.weights import weight_names


def needs_gradient(graph: Graph) -> set[Value]:
    """The values through which a gradient flows to a trained weight.

    Whole numbers and comparisons carry none: a hash that only chooses keys is no way to a weight.
    """
    held = {name for name, weight in graph.named_weights().items() if weight.frozen}
    trained = {value for value, names in weight_names(graph).items() if not held.issuperset(names)}
    moving: set[Value] = set()
    _moving(graph.main, moving, trained)
    wanted: set[Value] = set()
    _wanted(graph.main, moving, wanted)
    return moving & wanted


def _moving(region: Region, moving: set[Value], trained: set[Value]) -> None:
    """Adds what depends on a trained weight by way of real numbers."""
    moving.update(region.params)
    for value in region.values:
        inner = regions_of(value)
        for each in inner:
            _moving(each, moving, trained)
        whole = value.type.dtype in ("int", "bool")
        if value in trained or bool(inner) or (not whole and any(v in moving for v in value.operands)):
            moving.add(value)


def _wanted(region: Region, moving: set[Value], wanted: set[Value]) -> None:
    """Adds what the results of a region depend on by way of such values."""
    wanted.update(region.results)
    for value in reversed(region.values):
        if value in wanted and value in moving:
            wanted.update(value.operands)
            for inner in regions_of(value):
                _wanted(inner, moving, wanted)
                wanted.update(captures(inner))
