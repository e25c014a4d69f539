"""What a model makes of positions: how long a document may be, and whether packed documents are kept apart."""

from __future__ import annotations

from archc.ir.graph import Graph, Operand, Value, captures, regions_of
from archc.passes.support import live_values


def longest(graph: Graph) -> int | None:
    """The most tokens of a document for which every table of positions has a row; None where there is no such table."""
    tables = [(v.operands[0].type.axes[0].size, _ahead(v.args[1])) for v in live_values(graph) if v.op == "lookup"]
    return min((rows - ahead for rows, ahead in tables if ahead is not None), default=None)


def _ahead(index: Operand) -> int | None:
    """By how much an index is more than the position, None if it is anything else."""
    match index:
        case Value(op="pos"):
            return 0
        case Value(op="add", args=(Value() as value, int(number)) | (int(number), Value() as value)):
            ahead = _ahead(value)
            return None if ahead is None else ahead + number
    return None


def keeps_apart(graph: Graph) -> bool:
    """Whether the first output of a token depends on its own document only: on nothing summed over a whole sequence."""
    todo, seen = [graph.main.results[0]], set[Value]()
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        todo += value.operands
        for region in regions_of(value):
            todo += [*region.results, *captures(region)]
    return all(value.op != "reduce_time" for value in seen)
