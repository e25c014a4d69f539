"""Precision: which weights keep theirs when others are cast for training, and what a value is apart from it."""

from __future__ import annotations

from archc.ir.graph import Graph, Operand, Value
from archc.passes.support import live_values
from archc.passes.weights import weight_names, weights_alone


def single_precision(graph: Graph) -> frozenset[str]:
    """Full names of the weights that `fp32(...)` is taken of, by the spec or on the way into the decay of a scan.

    A decay near one loses its distance from one in bfloat16, and with it the length of the memory.
    """
    wide: set[Value] = set()
    for value in live_values(graph):
        if value.op == "fp32":
            wide |= weights_alone(value.operands[0])
    names = weight_names(graph)
    return frozenset(name for value in wide for name in names[value])


def precise(value: Value) -> Value:
    """The value behind changes of precision."""
    while value.op in ("fp32", "narrow"):
        value = value.operands[0]
    return value


def precise_operand(operand: Operand) -> Operand:
    """The same of a value or a number."""
    return precise(operand) if isinstance(operand, Value) else operand
