"""Which pairs are the same for every query: made of keys alone, they are computed once for each key."""

from __future__ import annotations

from archc.ir.graph import Graph, Kind, Value

BOTH = frozenset({"queries", "mask", "softmax_keys"})
"""What differs from query to query by itself."""


def same_for_every_query(graph: Graph) -> set[Value]:
    """The pairs that depend on the query in no way, such as `keys(latent) @ W[rank -> heads dim]`."""
    found: set[Value] = set()
    for region, _ in graph.regions():
        for value in region.values:
            if value.kind is not Kind.PAIR or value.op in BOTH or value in region.params:
                continue
            if all(v in found for v in value.operands if v.kind is Kind.PAIR):
                found.add(value)
    return found
