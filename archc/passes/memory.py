"""How many bytes weights, gradients, the optimizer and the state of a decoder take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from archc.ir.graph import Graph
from archc.passes.caches import caches
from archc.passes.params import params
from archc.passes.precision import single_precision
from archc.passes.workload import Workload

MASTER = 4
"""Bytes of an element in single precision: of trained weights, of gradients, of each of AdamW's two moments."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device that holds the whole model; activations are not counted.

    Training: `weights` are the single-precision weights and their cast copies, `gradients` and `optimizer` (AdamW's
    two moments) in single precision, no caches. Otherwise: `weights` in the compute type (those that stay in single
    precision at 4 bytes) and, when decoding, `caches` after `context` tokens.
    """

    weights: Any
    gradients: Any
    optimizer: Any
    caches: Any

    @property
    def total(self) -> Any:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.caches


def memory(graph: Graph, workload: Workload, compute: int = 2) -> Memory:
    """The memory of a workload; `compute` are the bytes of an element in the compute type."""
    counted = params(graph)
    wide = single_precision(graph)
    frozen = sum(t.count for t in counted.frozen) * MASTER
    narrow = sum(t.count for t in counted.tensors if t.name not in wide)
    single = (counted.total - narrow) * MASTER
    if workload.mode == "train":
        copies = narrow * compute if compute < MASTER else 0
        return Memory(counted.total * MASTER + copies + frozen, counted.total * MASTER, 2 * counted.total * MASTER, 0)
    held = 0
    if workload.mode == "decode":
        held = sum(c.bytes(workload.context, compute) for c in caches(graph)) * workload.batch
    return Memory(narrow * compute + single + frozen, 0, 0, held)
