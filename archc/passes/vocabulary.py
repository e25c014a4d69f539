"""The tokens of a model: how many it can read, and whether it says how likely each of them is."""

from __future__ import annotations

from archc.ir.graph import Axis, Graph, Kind
from archc.passes.support import live_values


def vocabulary(graph: Graph) -> int:
    """How many tokens the model can read: the rows of the table that it looks them up in. 0 where it has none."""
    table = _table(graph)
    return table[0].size if table else 0


def gives_logits(graph: Graph) -> bool:
    """Whether the first output has one number for each token, as the loss of a training wants it.

    A body without a head gives values of the other axes of its table; these are no logits, however many there are.
    """
    table, first = _table(graph), graph.main.results[0].type
    if not table or first.kind is not Kind.TOKEN or len(first.axes) != 1:
        return False
    (axis,) = first.axes
    return axis.size == table[0].size and axis.name not in {other.name for other in table[1:]}


def _table(graph: Graph) -> tuple[Axis, ...]:
    """The axes of the table that tokens are looked up in, its rows first."""
    lookups = (v.operands for v in live_values(graph) if v.op == "lookup")
    return next((t.type.axes for t, i in lookups if i.attrs.get("name") == "tokens"), ())
