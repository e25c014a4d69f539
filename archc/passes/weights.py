"""Which weights stand behind a value: full names, and the weights that flow into a value element by element."""

from __future__ import annotations

from collections.abc import Iterable

from archc.ir.graph import Graph, Kind, Value
from archc.ops.table import OPS

RUNNING = ("scan", "maxscan")


def weight_names(graph: Graph) -> dict[Value, tuple[str, ...]]:
    """Every `weight` value -> the full names of the tensors it stands for, one per layer that runs its region."""
    return {
        value: tuple(f"{prefix}.{value.attrs['path']}" if prefix else value.attrs["path"] for prefix in prefixes)
        for region, prefixes in graph.regions()
        for value in region.values
        if value.op == "weight"
    }


def weights_alone(value: Value) -> set[Value]:
    """The weights of which a value is a function, if it depends on nothing else; else none."""
    return flowing_into([value]) if value.kind is Kind.WEIGHT else set()


def flowing_into(values: Iterable[Value]) -> set[Value]:
    """The weights that reach the given values through element-wise ops, or through functions of weights alone."""
    out: set[Value] = set()
    todo, seen = list(values), set[Value]()
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        if value.op == "weight":
            out.add(value)
        elif value.kind is Kind.WEIGHT or OPS[value.op].flow in ("alias", "pointwise", "rearrange"):
            todo += value.operands
    return out


def decays(values: Iterable[Value]) -> list[Value]:
    """The decays of the scans among the values, where they are not numbers."""
    return [v.args[0] for v in values if v.op in RUNNING and isinstance(v.args[0], Value)]
