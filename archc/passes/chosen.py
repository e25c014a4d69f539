"""Which work a mixture of experts spares: what meets a gate that is zero outside of the k largest need not run.

A spec writes the mixture densely: `g = where(top(p, k, over = experts), p, 0)`, then a sum over experts of g times what
each of them gives. Whatever feeds nothing but that sum is needed for k experts of n.
"""

from __future__ import annotations

from fractions import Fraction

from archc.ir.graph import Graph, Region, Value
from archc.ops.table import OPS

Shares = dict[str, Fraction]
"""By axis, the part of its elements that are not known to be zero."""


def shares(graph: Graph) -> dict[Value, Fraction]:
    """The part of the work of a value that is needed, of those of which not all is."""
    found: dict[Value, Fraction] = {}
    for region, _ in graph.regions():
        gates: dict[Value, Shares] = {}
        for value in region.values:
            gates[value] = _gate(value, gates)
        for value in region.values:
            if value.op == "contract" and value in region.live:
                for gate, other in (value.operands, value.operands[::-1]):
                    for axis in value.attrs["over"]:
                        if axis in gates.get(gate, {}):
                            share = gates[gate][axis]
                            for needed in (value, *_feeds_only(value, other, axis, region)):
                                found[needed] = min(share, found.get(needed, share))
    return found


def _gate(value: Value, gates: dict[Value, Shares]) -> Shares:
    """Of `where(top(...), x, 0)`, and of what is made of it by products and quotients."""
    of = [gates.get(v, {}) if isinstance(v, Value) else {} for v in value.args]
    match value.op:
        case "where" if value.args[2] == 0 and isinstance(value.args[0], Value) and value.args[0].op == "top":
            top = value.args[0]
            (axis,) = top.attrs["over"]
            return {axis: Fraction(top.attrs["k"], top.type.sizes[axis])}
        case "mul":
            return {axis: min(each[axis] for each in of if axis in each) for each in of for axis in each}
        case "div":
            return of[0]
    return of[0] if OPS[value.op].flow == "alias" and value.op != "rename" else {}


def _feeds_only(end: Value, start: Value, axis: str, region: Region) -> set[Value]:
    """`start` and what is computed on the way to it, as far as it has the axis and nothing else reads it."""
    inside, found = set(region.values), set[Value]()
    todo = [start]
    while todo:
        value = todo.pop()
        readers = region.users.get(value, ())
        if value in inside and axis in value.names and all(reader is end or reader in found for reader in readers):
            found.add(value)
            todo += value.operands
    return found
