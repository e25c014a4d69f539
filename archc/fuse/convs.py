"""Every convolution with what runs in its kernel: the bias, and the element-wise equations behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from archc.fuse.behind import End, ends
from archc.fuse.builder import Builder, Given, Numbers, leaf_names
from archc.fuse.dag import SPECIAL, TOTAL, Equations, gradient, new_nodes, ordered, written
from archc.fuse.fused_scan import Handed
from archc.fuse.on_axes import Placed, only_moves, placed
from archc.fuse.regions import Kernel
from archc.fuse.traffic import Traffic, of_convolution
from archc.ir.graph import Graph, Kind, Region, Value
from archc.passes.readout import leaves


@dataclass(frozen=True, eq=False)
class FusedConv:
    """`result = activation(conv + bias)`: `bias`, a weight with axes of the convolution, is None without one.

    `activation` has one output, from the leaf `given[0]` that stands for the sum; it is None if nothing follows.
    `inputs` (tokens with all axes of the convolution), `weights` and `numbers` are in the order of its `x`, `w` and
    `n`. `computed` are the values on the way to the result, which no line of code computes.
    """

    conv: Value
    bias: Value | None
    inputs: tuple[Handed, ...]
    weights: tuple[Handed, ...]
    numbers: tuple[Given, ...]
    activation: Equations | None
    result: Value
    computed: frozenset[Value]
    traffic: Traffic

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal for two convolutions that one kernel runs with the same numbers in it."""
        a = self.activation
        equations = a and (written(a.outputs, (*a.x, *a.w, *a.n)), len(a.x), len(a.w), len(a.n))
        return self.bias is None, equations

    @property
    def only(self) -> str:
        """The op that the activation is, if it is one op of the sum alone ("silu"); else empty."""
        if self.activation is None:
            return ""
        (last,) = self.activation.outputs
        return last.op if last.args == self.activation.given else ""

    @property
    def gradient(self) -> Equations | None:
        """The derivatives of `activation` by the sum, x and then w; `given` are the sum and what comes in."""
        a = self.activation
        if a is None:
            return None
        return gradient(a, [a.outputs[0].home.leaf(SPECIAL + "do")], (*a.given, *a.x, *a.w))

    @property
    def needs_total(self) -> bool:
        """Whether any derivative depends on the sum."""
        derived = self.gradient
        return derived is not None and derived.given[0] in ordered(derived.outputs)


def fused_convs(
    graph: Graph, elsewhere: AbstractSet[Value] = frozenset(), numbers: Numbers | None = None
) -> dict[Value, FusedConv]:
    """Every live convolution by its result; the values `elsewhere` are computed by other kernels, and `numbers` are
    handed to these.
    """
    taken = frozenset(elsewhere)
    found = [_Conv(v, region, *_biased(v, region, taken)) for region, v in _live(graph) if v.op == "conv"]
    cones: dict[Value, frozenset[Value]] = {}
    for each in reversed(found):  # what two meet in runs with the later one
        last = next(each.ends(taken.union(*cones.values())))
        cones[each.conv] = frozenset({each.conv, each.start, *(p.value for p in last.cone)})
    out: dict[Value, FusedConv] = {}
    for each in found:
        others = taken.union(*(cone for conv, cone in cones.items() if conv is not each.conv))
        made = each.fused(others, numbers or {})
        out[made.result] = made
    return out


def _live(graph: Graph) -> Iterator[tuple[Region, Value]]:
    for region, _ in graph.regions():
        yield from ((region, v) for v in region.values if v in region.live)


def _biased(conv: Value, region: Region, taken: frozenset[Value]) -> tuple[Value, Value | None]:
    """The sum of a convolution and its bias, and the bias: a weight that the only value that reads it adds."""
    users = region.users.get(conv, ())
    if len(users) != 1 or leaves(conv, region):
        return conv, None
    (total,) = users
    near = total.origin.calls == conv.origin.calls and total not in taken
    if not near or total.op != "add" or total.type != conv.type:
        return conv, None
    other = next((v for v in total.operands if v is not conv), None)
    return (total, other) if other is not None and other.kind is Kind.WEIGHT else (conv, None)


@dataclass(frozen=True, eq=False)
class _Conv:
    """A convolution, and what its equations start from: itself or its sum with the bias."""

    conv: Value
    region: Region
    start: Value
    bias: Value | None

    def ends(self, taken: frozenset[Value]) -> Iterator[End]:
        """Where its equations could end, the last place first."""
        return ends(placed(self.start), self.region, taken, called=True)

    def fused(self, taken: frozenset[Value], numbers: Numbers) -> FusedConv:
        """It with the most that its kernel can compute; the values `taken` are computed by others."""
        found = (self.ending(end, taken, numbers) for end in self.ends(taken))
        return next(each for each in found if each is not None)

    def ending(self, end: End, taken: frozenset[Value], numbers: Numbers) -> FusedConv | None:
        """It with its equations up to there, None if the kernel cannot end so.

        The result is stored as the sum would be, in real numbers. Tokens that lack an axis would be read once for each
        element, and documents' starts and conditions are not known there.
        """
        if not end.cone:
            return self.with_equations(end, (), (), frozenset(), None)
        real = self.conv.type.dtype == "real"
        if not real or end.result.value.type != self.conv.type or all(only_moves(p.value) for p in end.cone):
            return None
        own = frozenset({self.start, *(p.value for p in end.cone)} - {self.conv})  # which reads what must exist outside
        kernel = Kernel(self.region, self.conv.origin.calls, frozenset(self.conv.names), own, frozenset(), taken)
        operands = (a for p in end.cone for a in p.operands() if isinstance(a, Placed))
        tops = {a: "out" for a in operands if a.value not in own and a.value is not self.conv}
        inside = kernel.inside(tops) | end.cone
        build = Builder(inside, new_nodes(), leaf_names(inside, {**tops, end.result: "out"}, {}), numbers)
        total = build.known[end.start] = build.nodes.leaf(TOTAL)
        out = build.node(end.result)
        handed = self.handed(build)
        if not all(map(_can_be_read, handed)) or build.first in ordered([out]) or total not in ordered([out]):
            return None
        inputs = tuple(h for h in handed if h.value.kind is not Kind.WEIGHT)
        weights = tuple(h for h in handed if h.value.kind is Kind.WEIGHT)
        x, w = (tuple(build.nodes.leaf(h.name) for h in each) for each in (inputs, weights))
        names = {} if out.args == (total,) else build.names  # what is one op may be shared
        equations = Equations((out,), x, w, (total,), names, tuple(build.handed))
        values = frozenset(p.value for p in inside) | own
        computed = values - kernel.read_elsewhere(values)
        return self.with_equations(end, inputs, weights, computed, equations, tuple(build.handed.values()))

    def with_equations(
        self,
        end: End,
        inputs: tuple[Handed, ...],
        weights: tuple[Handed, ...],
        computed: frozenset[Value],
        equations: Equations | None,
        numbers: tuple[Given, ...] = (),
    ) -> FusedConv:
        """What runs in the kernel, the bias included."""
        result = end.result.value
        computed = (computed | {self.conv, self.start}) - {result}
        moved = of_convolution(self.conv, [h.value for h in inputs], [*computed, result])
        return FusedConv(self.conv, self.bias, inputs, weights, numbers, equations, result, computed, moved)

    def handed(self, build: Builder) -> Sequence[Handed]:
        """What the kernel is handed, in the order of the text."""
        found = sorted(build.border.items(), key=lambda each: (each[0][0].value.id, each[0][0].axes))
        return [
            Handed(p.value, p.groups, tuple(a for a in self.conv.names if a not in p.axes), leaf.name, part)
            for (p, part), leaf in found
        ]


def _can_be_read(handed: Handed) -> bool:
    """Whether a kernel of a convolution takes a value: a token of a batch with all axes, or a weight with some."""
    weight = handed.value.kind is Kind.WEIGHT
    whole = weight or not handed.is_broadcast
    return whole and handed.value.type.dtype == "real" and all(len(group) == 1 for group in handed.groups)
