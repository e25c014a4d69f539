"""The closed table of ops; it refuses to load while an op lacks a rule or a name is taken twice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from archc.ir.graph import Graph
from archc.ir.verify import verify
from archc.ops import contract, model, pair, pointwise, reduce, shape, source, time
from archc.ops.base import Infer, Op


def assemble(ops: Iterable[Op]) -> dict[str, Op]:
    """Op by name. Raises `AssertionError` that names the op and the rule if a rule is missing or a name comes twice."""
    table: dict[str, Op] = {}
    for op in ops:
        for rule in fields(Op):
            assert getattr(op, rule.name), f"op '{op.name}' has no rule '{rule.name}'"
        assert op.name not in table, f"op '{op.name}' is declared twice"
        table[op.name] = op
    return table


OPS: dict[str, Op] = assemble(
    op for family in (source, pointwise, contract, reduce, shape, time, pair, model) for op in family.OPS
)
INFER: dict[str, Infer] = {name: op.infer for name, op in OPS.items()}


def verified(graph: Graph) -> Graph:
    """The graph itself, if every value has the type that its op infers and the order of values holds. See `verify`."""
    verify(graph, INFER)
    return graph
