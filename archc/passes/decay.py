"""Which weights weight decay leaves alone."""

from __future__ import annotations

from archc.ir.graph import Graph, Value
from archc.ops.aliases import bare
from archc.passes.support import live_values
from archc.passes.weights import decays, flowing_into, weight_names


def without_weight_decay(graph: Graph) -> frozenset[str]:
    """Full names of the weights that must not be pulled towards zero.

    Only matrices and the taps of convolutions are: everything that is looked up, added or multiplied element by
    element (tables, biases, scales, skips) is left alone, and so is what flows element-wise into the decay of a scan
    (Mamba's A_log, RG-LRU's lambda), since pulling it changes how long the model remembers; and frozen weights.
    """
    values = list(live_values(graph))
    matrices = _matrices(values)
    kept = flowing_into(decays(values))
    frozen = {name for name, weight in graph.named_weights().items() if weight.frozen}
    out: set[str] = set(frozen)
    for value, names in weight_names(graph).items():
        if value in kept or value not in matrices:
            out.update(names)
    return frozenset(out)


def _matrices(values: list[Value]) -> set[Value]:
    """The weights with two axes or more that are contracted or convolved, and never looked up."""
    out: set[Value] = set()
    tables = {value.operands[0] for value in values if value.op == "lookup"}
    for value in values:
        if value.op in ("contract", "contract_keys", "conv"):
            for operand in map(bare, value.operands):
                if operand.op == "weight" and len(operand.names) > 1:
                    out.add(operand)
    return out - tables
