"""Matrix work as the emitted program does it: in the blocks and chunks of its kernels, some of it twice.

`archc.passes.flops` counts what a model needs, by a convention that no implementation moves. This counts what runs:
a window in blocks of queries, a scan of outer products in chunks, the forward work that a kernel does again in the
backward pass instead of keeping its result.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, Protocol

from archc.elaborate import Program
from archc.emit.fused import Fused, find
from archc.emit.units import group
from archc.ir.graph import Kind, Region, Value
from archc.ops.support import Support
from archc.ops.table import OPS
from archc.passes.attention import Attention
from archc.passes.delta import DeltaScan
from archc.passes.gradients import needs_gradient
from archc.passes.keyed import same_for_every_query
from archc.passes.matrix_scans import grouped
from archc.passes.scan_class import ScanClass, inside


@dataclass(frozen=True)
class Matrix:
    """Matrix operations, a multiply-add being 2. `again`: forward work that the backward pass repeats."""

    forward: int = 0
    backward: int = 0
    again: int = 0

    def __add__(self, other: Matrix) -> Matrix:
        return Matrix(self.forward + other.forward, self.backward + other.backward, self.again + other.again)

    def __mul__(self, times: int) -> Matrix:
        return Matrix(self.forward * times, self.backward * times, self.again * times)

    @property
    def train(self) -> int:
        """All of a training step."""
        return self.forward + self.backward + self.again


@dataclass(frozen=True)
class Heads:
    """The sizes of a chunked scan: `groups` of `heads`, in which each has a state of `key` x `value`.

    `shared`: keys and queries are those of the group. `learned`: the decay wants a gradient. `normalised`: sums of the
    keys run with it.
    """

    groups: int
    heads: int
    key: int
    value: int
    shared: bool
    learned: bool
    normalised: bool = False


@dataclass(frozen=True)
class Rows:
    """How many pairs of query and key a pair program computes, and whether once more in the backward pass; `keys`: how
    many keys its blocks of queries see.
    """

    pairs: int
    keys: int
    again: bool


class Kernels(Protocol):
    """What the kernels of a backend do for one whole document of `time` tokens, at least two, without a state."""

    @property
    def skips_starts(self) -> bool:
        """Whether a loop that starts from a number takes no gradient of its first state."""

    def attention(self, time: int, causal: bool, window: int | None, dim: int, value: int) -> Matrix:
        """Attention of one head to `window` keys of `dim`, or to later ones too, with values of size `value`."""

    def rows(self, time: int, support: Support) -> Rows:
        """A pair program whose queries see as far as `support` says."""

    def selective(self, time: int, channels: int, states: int) -> Matrix:
        """A selective scan."""

    def long_convolution(self, time: int, channels: int, states: int) -> Matrix:
        """A scan whose decay is the same for every token, read out at once; without the Fourier transforms."""

    def chunked(self, kind: Literal["chunked", "chunked_key"], time: int, sizes: Heads) -> Matrix:
        """A scan of outer products, with a decay per head or per key."""

    def delta(self, time: int, heads: int, key: int, value: int) -> Matrix:
        """A delta rule; without the triangular systems, which no counter knows."""


def executed(program: Program, kernels: Kernels, batch: int, time: int) -> Matrix:
    """The matrix work of `batch` whole documents of `time` tokens (at least two), in a program without remat.

    The body of a loop runs once more in the backward pass. Sums of products of complex numbers are element-wise work.
    Pairs within buckets are counted as in a sequence that is too short to be sorted: of a longer one their number is in
    its values.
    """
    graph, fused = program.graph, find(program, group(program))
    moving, once = needs_gradient(graph), same_for_every_query(graph)
    skipped = _swallowed(fused)
    loops = [v for region, _ in graph.regions() for v in region.values if v.op == "loop"]
    inside = {loop.attrs["body"] for loop in loops if loop in fused.absorbed}
    loops = [loop for loop in loops if loop not in fused.absorbed]
    bodies = {loop.attrs["body"] for loop in loops}
    constant = {c for loop in loops for c in _constant_at_first(loop)} if kernels.skips_starts else set[Value]()
    whole = apart = Matrix()
    for region, prefixes in graph.regions():
        if region in inside:
            continue
        one = Matrix()
        for value in region.values:
            if value in region.live and value not in skipped and _of_weights_alone(value, fused):
                apart += _value(value, fused, kernels, time, moving, False) * len(prefixes)
            elif value in region.live and value not in skipped:
                one += _value(value, fused, kernels, time, moving, value in once)
                if region in bodies:
                    one += _again(value, time, constant)
        whole += one * len(prefixes)
    return whole * batch + apart


def _of_weights_alone(value: Value, fused: Fused) -> bool:
    """Whether matrix work is done once for all sequences: that of weights, and of the kernel of a convolution."""
    return value.kind is Kind.WEIGHT or (value in fused.reads and fused.reads[value].kind == "long_convolution")


def _swallowed(fused: Fused) -> set[Value]:
    """What a kernel computes on the way to a result that stands for it."""
    scans = {
        v
        for found in fused.reads.values()
        for v in ({*found.reads[0].path} if found.kind == "delta" else inside(found))
    }
    between = {v for found in fused.attention.values() for v in (found.scores, found.weights)}
    return (scans - set(fused.reads)) | between


def _constant_at_first(loop: Value) -> set[Value]:
    """What in the body of a loop comes of nothing but numbers at the first token, and so needs no gradient there."""
    body: Region = loop.attrs["body"]
    found = {p for p, start in zip(body.params, loop.args, strict=True) if not isinstance(start, Value)}
    for value in body.values:
        if value.operands and found.issuperset(value.operands):
            found.add(value)
    return found


def _again(value: Value, time: int, constant: set[Value]) -> Matrix:
    """What the body of a loop adds: every token runs once more, and the first has fewer gradients."""
    matrix = OPS[value.op].flops(value).matrix
    return Matrix(0, -matrix * sum(v in constant for v in value.operands), matrix * time)


def _value(value: Value, fused: Fused, kernels: Kernels, time: int, moving: set[Value], once: bool) -> Matrix:
    if value in fused.reads:
        return _scan(fused.reads[value], kernels, time, moving)
    if value in fused.attention:
        return _attention(fused.attention[value], kernels, time)
    if value.type.dtype == "complex" or any(v.type.dtype == "complex" for v in value.operands):
        return Matrix()
    work = OPS[value.op].flops(value)
    sides = sum(v in moving for v in value.operands) if value in moving else 0
    match work.per:
        case Kind.WEIGHT | Kind.SEQ:
            return Matrix(work.matrix, sides * work.matrix)
        case Kind.TOKEN:
            forward = work.matrix * time
            return Matrix(forward, sides * forward)
        case Kind.PAIR:
            span = next((fused.spans[v] for v in (value, *value.operands) if v in fused.spans), None)
            if span is None:
                return Matrix()
            rows = kernels.rows(time, span)
            forward = work.matrix * (rows.keys if once else rows.pairs)
            last = value.kind is Kind.TOKEN  # nothing needs the result of the sum over keys again
            return Matrix(forward, sides * forward, forward if rows.again and sides and not last else 0)


def _attention(found: Attention, kernels: Kernels, time: int) -> Matrix:
    sizes = found.query.type.sizes | found.value.type.sizes
    heads, dim, value = (
        prod(sizes[n] for n in names) for names in ((*found.groups, *found.members), found.over, found.values)
    )
    return kernels.attention(time, found.causal, found.window, dim, value) * heads


def _scan(found: ScanClass, kernels: Kernels, time: int, moving: set[Value]) -> Matrix:
    if isinstance(found, DeltaScan):
        sizes = found.state.type.sizes
        return kernels.delta(time, *(prod(sizes[n] for n in names) for names in (found.heads, found.key, found.value)))
    if found.normalises is not None:
        return Matrix()
    sizes = found.scan.type.sizes
    key, value = (prod(sizes[n] for n in names) for names in (found.key, found.value))
    if found.kind == "long_convolution":
        return kernels.long_convolution(time, prod(sizes[n] for n in found.heads), key)
    if found.kind == "selective":
        return kernels.selective(time, prod(sizes[n] for n in found.heads), key)
    assert found.kind in ("chunked", "chunked_key")
    sources = [found.reads[0].query, *(f.operand for f in found.factors["key"])]
    named = [set(s.names) for s in sources if isinstance(s, Value)]
    groups, heads = grouped(found)
    shared = not any(n in names for n in heads for names in named)
    of_groups, of_heads = (prod(sizes[n] for n in names) for names in (groups, heads))
    learned, normalised = found.scan.args[0] in moving, found.normaliser is not None
    return kernels.chunked(found.kind, time, Heads(of_groups, of_heads, key, value, shared, learned, normalised))
