"""How many floating-point operations a workload takes: on matrix units, on vector units and in recurrences, kept apart.

Conventions: see `archc.ops.cost` for the ops; the head is counted, look-ups are not. Backward, a matrix product costs
once more for every operand that needs a gradient (none for frozen weights), all other work twice the forward work;
recomputation is not counted. What a fused scan computes on the way to its state and out of it is its own work, not
the matrix units'.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from archc.ir.graph import Graph, Kind, Region, Value, regions_of
from archc.ops.cost import Work
from archc.ops.support import Support
from archc.ops.table import OPS
from archc.passes.caches import reach
from archc.passes.scans import classify, inside
from archc.passes.workload import Pairs, Workload

SOURCES = ("pos", "input", "index", "random", "mask")


@dataclass(frozen=True)
class Cost:
    """Operations by the unit that does them: numbers, or arrays of sweep points."""

    matrix: Any = 0
    vector: Any = 0
    scan: Any = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.matrix + other.matrix, self.vector + other.vector, self.scan + other.scan)

    @property
    def total(self) -> Any:
        """All of it."""
        return self.matrix + self.vector + self.scan


@dataclass(frozen=True)
class Row:
    """The cost of one layer (`layers.3`), or of what is outside of a stack (the empty string)."""

    layer: str
    block: str
    forward: Cost
    backward: Cost


@dataclass(frozen=True)
class Flops:
    """The cost of a workload, layer by layer. `backward` is zero unless training."""

    workload: Workload
    rows: tuple[Row, ...]

    @property
    def forward(self) -> Cost:
        """The forward pass of all tokens of the workload (decoding: of one token of every sequence)."""
        return sum((r.forward for r in self.rows), Cost())

    @property
    def backward(self) -> Cost:
        """The backward pass."""
        return sum((r.backward for r in self.rows), Cost())

    @property
    def total(self) -> Cost:
        """Forward and backward."""
        return self.forward + self.backward

    @property
    def per_token(self) -> Cost:
        """Forward and backward, divided by the tokens."""
        tokens = self.workload.tokens
        return Cost(self.total.matrix / tokens, self.total.vector / tokens, self.total.scan / tokens)


def flops(graph: Graph, workload: Workload, pairs: Pairs | None = None) -> Flops:
    """Counts a workload. `pairs` replaces the convention for the pairs of a sequence (see `Workload.pairs`)."""
    spans = reach(graph)
    count = workload.pairs if pairs is None or workload.mode == "decode" else partial(pairs, workload.time)
    fused: set[Value] = set()
    for found in classify(graph).values():
        fused |= inside(found)
    moving = needs_gradient(graph)
    rows: list[Row] = []
    for region, prefixes in graph.regions():
        forward, backward = Cost(), Cost()
        for value in region.values:
            if value not in region.live or value in region.params:
                continue
            work = OPS[value.op].flops(value)
            cost = _times(work, _count(value, work, workload, spans, count), value in fused)
            forward += cost
            if workload.mode == "train":
                backward += _backward(value, cost, moving)
        rows += [Row(prefix, region.name, forward, backward) for prefix in prefixes]
    return Flops(workload, _merged(rows))


def _merged(rows: list[Row]) -> tuple[Row, ...]:
    """Loop bodies belong to the layer they are in."""
    by_layer: dict[str, Row] = {}
    for row in rows:
        known = by_layer.get(row.layer)
        by_layer[row.layer] = (
            row
            if known is None
            else Row(row.layer, known.block, known.forward + row.forward, known.backward + row.backward)
        )
    return tuple(by_layer.values())


def _count(value: Value, work: Work, workload: Workload, spans: dict[Value, Support], pairs: Any) -> Any:
    """How often the work is done."""
    match work.per:
        case Kind.WEIGHT:
            return 1
        case Kind.SEQ:
            return workload.batch
        case Kind.TOKEN:
            return workload.tokens
        case Kind.PAIR:
            span = next((spans[v] for v in (value, *value.operands) if v in spans), None)
            return 0 if span is None else workload.batch * pairs(span)


def _times(work: Work, times: Any, fused: bool) -> Cost:
    if fused:
        return Cost(scan=(work.matrix + work.vector + work.scan) * times)
    return Cost(work.matrix * times, work.vector * times, work.scan * times)


def _backward(value: Value, forward: Cost, moving: set[Value]) -> Cost:
    if value not in moving:
        return Cost()
    sides = sum(v in moving for v in value.operands)
    return Cost(forward.matrix * sides, forward.vector * 2, forward.scan * 2)


def needs_gradient(graph: Graph) -> set[Value]:
    """The values through which a gradient flows to a trained weight."""
    frozen = {w.path for _, weights in graph.weights.items() for w in weights if w.frozen}
    moving: set[Value] = set()
    _moving(graph.main, moving, frozen)
    return moving


def _moving(region: Region, moving: set[Value], frozen: set[str]) -> None:
    moving.update(region.params)
    for value in region.values:
        inner = regions_of(value)
        for each in inner:
            _moving(each, moving, frozen)
        if value.op == "weight":
            trained = value.attrs["path"] not in frozen
        elif value.type.dtype in ("int", "bool") or value.op in SOURCES:
            trained = False
        else:
            trained = bool(inner) or any(v in moving for v in value.operands)
        if trained:
            moving.add(value)
