"""How many floating-point operations a workload takes: on matrix units, on vector units and in recurrences, kept apart.

Conventions: see `archc.ops.cost` for the ops; the head is counted, look-ups are not. Backward, a matrix product costs
once more for every operand that needs a gradient (none for frozen weights), all other work twice the forward work;
recomputation is not counted. What is the same for every query is computed once a key (of all tokens before the one that
is decoded), an expert only where its gate is not zero. What a fused scan computes on the way to its state and out of it
is its own work, not the matrix units'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from typing import Any

from archc.ir.calls import call_of, callee, depth
from archc.ir.graph import Graph, Kind, Value
from archc.ops.cost import Work
from archc.ops.support import Support
from archc.ops.table import OPS
from archc.passes.caches import reach
from archc.passes.chosen import shares
from archc.passes.gradients import needs_gradient
from archc.passes.keyed import same_for_every_query
from archc.passes.scan_class import inside
from archc.passes.scans import classify
from archc.passes.workload import Pairs, Workload


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
class Part:
    """The work of one fn that a block calls; `backward` is zero unless training."""

    forward: Cost = Cost()
    backward: Cost = Cost()

    def __add__(self, other: Part) -> Part:
        return Part(self.forward + other.forward, self.backward + other.backward)

    @property
    def total(self) -> Cost:
        """Forward and backward."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Row:
    """The work of one layer (`layers.3`), or of what is outside of a stack (the empty string).

    `parts`: by the name of the fn that the block calls; what is written in the block itself under the empty string.
    """

    layer: str
    block: str
    parts: Mapping[str, Part]

    @cached_property
    def whole(self) -> Part:
        """All parts together."""
        return sum(self.parts.values(), Part())

    @property
    def forward(self) -> Cost:
        """The forward pass."""
        return self.whole.forward

    @property
    def backward(self) -> Cost:
        """The backward pass; zero unless training."""
        return self.whole.backward

    def plus(self, parts: Mapping[str, Part]) -> Row:
        """The same layer with more work, part by part."""
        names = {**self.parts, **parts}
        return replace(self, parts={n: self.parts.get(n, Part()) + parts.get(n, Part()) for n in names})


@dataclass(frozen=True)
class Flops:
    """The work of a workload, layer by layer."""

    workload: Workload
    rows: tuple[Row, ...]

    @cached_property
    def whole(self) -> Part:
        """All rows together: of all tokens of the workload (decoding: of one token of every sequence)."""
        return sum((row.whole for row in self.rows), Part())

    @property
    def forward(self) -> Cost:
        """The forward pass."""
        return self.whole.forward

    @property
    def backward(self) -> Cost:
        """The backward pass; zero unless training."""
        return self.whole.backward

    @property
    def total(self) -> Cost:
        """Forward and backward."""
        return self.whole.total

    @property
    def per_token(self) -> Cost:
        """Forward and backward, divided by the tokens."""
        total, tokens = self.total, self.workload.tokens
        return Cost(total.matrix / tokens, total.vector / tokens, total.scan / tokens)


def flops(graph: Graph, workload: Workload, pairs: Pairs | None = None) -> Flops:
    """Counts a workload. `pairs` replaces the convention for the pairs of a sequence (see `Workload.pairs`)."""
    spans = reach(graph)
    spared = shares(graph)
    once = same_for_every_query(graph) if workload.mode != "decode" else set[Value]()
    count = workload.pairs if pairs is None or workload.mode == "decode" else partial(pairs, workload.time)
    fused: set[Value] = set()
    for found in classify(graph).values():
        fused |= inside(found)
    moving = needs_gradient(graph) if workload.mode == "train" else set[Value]()
    rows: dict[str, Row] = {}
    levels: dict[str, int] = {}
    for region, prefixes in graph.regions():
        level = levels.setdefault(prefixes[0], depth(region))  # the body of a loop belongs to the layer it is in
        parts: dict[str, Part] = {}
        for value in region.values:
            if value in region.live and value not in region.params:
                work = _needed(OPS[value.op].flops(value), spared.get(value))
                times = workload.tokens if value in once else _count(value, work, workload, spans, count)
                forward = _times(work, times, value in fused)
                call = call_of(value, level)
                name = "" if call is None else callee(call)
                parts[name] = parts.get(name, Part()) + Part(forward, _backward(value, forward, moving))
        for prefix in prefixes:
            outer = rows.get(prefix)
            rows[prefix] = Row(prefix, region.name, parts) if outer is None else outer.plus(parts)
    return Flops(workload, tuple(rows.values()))


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


def _needed(work: Work, share: Fraction | None) -> Work:
    """The part of the work that is needed; it is a whole number, since the experts are an axis of what is computed."""
    if share is None:
        return work
    matrix, vector, scan = (int(part * share) for part in (work.matrix, work.vector, work.scan))
    return Work(work.per, matrix, vector, scan)


def _times(work: Work, times: Any, fused: bool) -> Cost:
    if fused:
        return Cost(scan=(work.matrix + work.vector + work.scan) * times)
    return Cost(work.matrix * times, work.vector * times, work.scan * times)


def _backward(value: Value, forward: Cost, moving: set[Value]) -> Cost:
    if value not in moving:
        return Cost()
    sides = sum(v in moving for v in value.operands)
    return Cost(forward.matrix * sides, forward.vector * 2, forward.scan * 2)
