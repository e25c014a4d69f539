"""The layers of a model by kind: what a reader calls them, how often they come, in which pattern."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from archc.ir.graph import Graph, Layer, Region


@dataclass(frozen=True)
class Layers:
    """`labels`: prefix (`layers.3`, or the empty string) -> kind; `order`: the kinds of the layers, first to last."""

    labels: Mapping[str, str]
    order: tuple[str, ...]

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many layers of each kind there are, in the order in which the kinds first come."""
        return dict(Counter(self.order))

    @cached_property
    def first(self) -> dict[str, str]:
        """Kind -> the prefix of its first layer."""
        return {label: prefix for prefix, label in reversed(list(self.labels.items()))}


def layers(graph: Graph) -> Layers:
    """The layers of all stacks. Kinds of one block with other arguments are told apart by a number."""
    plan: list[Layer] = [
        layer
        for region, _ in graph.regions()
        for value in region.values
        if value.op == "stack" and value in region.live
        for layer in value.attrs["layers"]
    ]
    kinds: dict[Region, str] = {}
    blocks = Counter(block for block, _ in {(layer.block, layer.region): None for layer in plan})
    seen = Counter[str]()
    for layer in plan:
        if layer.region not in kinds:
            seen[layer.block] += 1
            kinds[layer.region] = layer.block if blocks[layer.block] == 1 else f"{layer.block} {seen[layer.block]}"
    labels = {"": "outside"} | {layer.prefix: kinds[layer.region] for layer in plan}
    return Layers(labels, tuple(kinds[layer.region] for layer in plan))


def pattern(order: Sequence[str]) -> str:
    """The kinds of layers as a person would write them.

    >>> pattern(["r", "r", "a", "r", "r", "a", "r"])
    '(r x 2, a) x 2, r'
    >>> pattern(["a"] * 12)
    'a x 12'
    >>> pattern(["a", "b", "b", "b", "c"])
    'a, b x 3, c'
    """
    period = next((p for p in range(1, len(order) // 2 + 1) if all(k == order[i % p] for i, k in enumerate(order))), 0)
    if not period:
        return _runs(order)
    times, rest = divmod(len(order), period)
    inner = _runs(order[:period])
    whole = f"{inner} x {times}" if period == 1 else f"({inner}) x {times}"
    return ", ".join([whole, *([_runs(order[:rest])] if rest else [])])


def _runs(order: Sequence[str]) -> str:
    runs: list[tuple[str, int]] = []
    for kind in order:
        if runs and runs[-1][0] == kind:
            runs[-1] = kind, runs[-1][1] + 1
        else:
            runs.append((kind, 1))
    return ", ".join(kind if times == 1 else f"{kind} x {times}" for kind, times in runs)
