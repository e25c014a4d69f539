"""How many bytes a scan moves per element of its tile: as fused, at best, and one operation at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from archc.fuse.regions import only_moves
from archc.ir.graph import Kind, Value
from archc.passes.scans import ScanClass

HALF, SINGLE = 2, 4
"""Bytes of an element in bfloat16 and in single precision."""


@dataclass(frozen=True)
class Traffic:
    """Bytes per token and element of the tile (channel), weights and the state between tokens left out.

    forward, backward: the kernel reads its inputs and writes its result; going back it reads them again and the
    result's derivative, and writes theirs; all in bfloat16. ideal_*: the least that it could be if values that are
    read elsewhere as well were computed here where that saves something. separate: the forward pass with every
    operation on its own, single precision where the spec says so.
    """

    forward: float
    backward: float
    ideal_forward: float
    ideal_backward: float
    separate: float


def traffic(
    found: ScanClass, tile: tuple[str, ...], inputs: Sequence[Value], ideal: Sequence[Value], values: Iterable[Value]
) -> Traffic:
    """The traffic of a scan whose kernel reads `inputs`, at best `ideal`, and computes `values`."""
    sizes = found.scan.type.sizes
    elements = 1
    for name in tile:
        elements *= sizes[name]
    keys = [f.operand for f in found.factors["key"] if isinstance(f.operand, Value)]
    outer = [*keys, *(r.query for r in found.reads)]
    forward, backward = _moved([*inputs, *outer], elements)
    best = _moved([*ideal, *outer], elements)
    alone = sum(_bytes(v) + sum(map(_bytes, v.operands)) for v in values if not only_moves(v))
    return Traffic(forward, backward, min(forward, best[0]), min(backward, best[1]), alone / elements)


def _moved(read: Iterable[Value], elements: int) -> tuple[float, float]:
    """Bytes per element forward and backward of a kernel with these inputs and one result."""
    inputs = HALF * sum(v.type.elements for v in read if v.kind is Kind.TOKEN) / elements
    return inputs + HALF, 2 * inputs + HALF


def _bytes(value: Value) -> int:
    """Bytes per token of a value that is stored."""
    return (SINGLE if value.type.wide else HALF) * value.type.elements if value.kind is Kind.TOKEN else 0
