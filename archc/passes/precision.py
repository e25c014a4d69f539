"""Which weights stay in single precision when the others are cast for training."""

from __future__ import annotations

from archc.ir.graph import Graph, Kind, Value
from archc.passes.norms import norms
from archc.passes.support import live_values
from archc.passes.weights import flowing_into, weight_names


def single_precision(graph: Graph) -> frozenset[str]:
    """Full names of the weights that meet single precision: inside `fp32(...)`, and on the way into the decay of a scan.

    A decay near one loses its distance from one in bfloat16, and with it the length of the memory. A function of weights
    alone is as precise as what it meets; the scale of a norm meets single precision only inside of the norm.
    """
    wide: set[Value] = set()
    statistics = {v for n in norms(graph).values() for v in (*n.inside, n.output)}
    for value in live_values(graph):
        if value in statistics:
            continue
        if any(v in statistics for v in value.operands):
            if value.op in ("mul", "add"):
                statistics.add(value)
            continue
        if value.op == "fp32" or (value.kind is not Kind.WEIGHT and value.type.wide and value.op != "contract"):
            wide |= flowing_into([v for v in value.operands if v.kind is Kind.WEIGHT and v.type.dtype == "real"])
    names = weight_names(graph)
    return frozenset(name for value in wide for name in names[value])
