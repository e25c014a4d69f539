"""What the reference evaluates in: a chunk of tokens, its past, weights, states; and the alignment of named axes.

Arrays carry the axes of their kind in front: a weight `[*axes]`, a sequence value `[B, *axes]`, a token `[B, T,
*axes]`, a pair `[B, T, S, *axes]` with all S tokens since the start, the chunk last. An axis of size 1 in front
broadcasts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archc.ir.graph import Axis, Kind, Operand, Region, Type, Value
from archc.ops.support import EVERYWHERE, Support

Array = NDArray[Any]
FORGOTTEN = 1.0
"""What stands in for tokens that a cache has dropped: if a mask did not exclude them, results would change."""


@dataclass(frozen=True)
class Frame:
    """A chunk of T tokens after others: all that evaluating an op needs to know besides its operands."""

    rules: Mapping[str, Evaluate]
    weights: Mapping[str, Array]
    inputs: Mapping[str, Array]
    past: Array  # positions of all tokens since the start, [B, S]
    length: int  # T
    state: dict[str, Array]
    kept: Mapping[str, float] = field(default_factory=dict)
    supports: Mapping[Value, Support] = field(default_factory=dict)
    draw: Callable[[Value], Array] | None = None
    prefix: str = ""
    values: dict[Value, Any] = field(default_factory=dict)

    @property
    def pos(self) -> Array:
        """Positions of the chunk in their documents, [B, T]."""
        return self.past[:, self.past.shape[1] - self.length :]

    @property
    def distance(self) -> Array:
        """Query's place minus key's place, [T, S]."""
        total = self.past.shape[1]
        return np.arange(total - self.length, total)[:, None] - np.arange(total)[None, :]

    @property
    def together(self) -> Array:
        """Whether query and key are of one document, [B, T, S]: the later one's position reaches the earlier one."""
        return np.where(
            self.distance >= 0, self.distance <= self.pos[:, :, None], -self.distance <= self.past[:, None, :]
        )

    def visible(self, pair: Value) -> Array:
        """The keys of the query's document at which a pair may be non-zero, [B, T, S]."""
        support = self.supports.get(pair, EVERYWHERE)
        return self.together & (self.distance < support.back) & (self.distance >= -support.ahead)

    def name(self, below: str) -> str:
        """The full name of a weight or state of the instance being run."""
        return f"{self.prefix}.{below}" if self.prefix else below

    def run(self, region: Region) -> tuple[Any, ...]:
        """Evaluates the live values of a region whose parameters are set; returns its results."""
        for value in region.values:
            if value in region.live and value not in region.params:
                operands = tuple(self.values[a] if isinstance(a, Value) else np.asarray(a) for a in value.args)
                self.values[value] = self.rules[value.op](value, operands, self)
        return tuple(self.values[r] for r in region.results)

    def below(self, prefix: str) -> Frame:
        """The same chunk under another prefix."""
        return replace(self, prefix=prefix)

    def token(self, t: int, values: Mapping[Value, Array]) -> Frame:
        """Token t of the chunk alone, with the given values of the enclosing regions."""
        end = self.past.shape[1] - self.length + t + 1
        inputs = {k: v[:, t : t + 1] for k, v in self.inputs.items()}
        return replace(self, past=self.past[:, :end], length=1, inputs=inputs, values=dict(values))


Evaluate = Callable[[Value, tuple[Any, ...], Frame], Any]
"""The value of an op: an array, or for stacks and loops one array per result."""


def place(array: Array, have: Type, kind: Kind, axes: tuple[Axis, ...]) -> Array:
    """The array with the given axes (size 1 where it lacks one), broadcasting up to a higher kind."""
    lead = int(have.kind)
    order = [have.names.index(a.name) for a in axes if a.name in have.names]
    assert len(order) == len(have.axes), f"{have} does not fit [{' '.join(map(str, axes))}]"
    array = np.transpose(array, [*range(lead), *(lead + i for i in order)])
    missing = kind - have.kind
    front = (1,) * missing + array.shape[:lead] if have.kind is Kind.WEIGHT else array.shape[:lead] + (1,) * missing
    sizes = iter(array.shape[lead:])
    return array.reshape((*front, *(next(sizes) if a.name in have.names else 1 for a in axes)))


def fit(array: Array, source: Operand, target: Type) -> Array:
    """An operand made to broadcast against an array of the target type."""
    if not isinstance(source, Value):
        return np.asarray(array)
    return place(array, source.type, target.kind, target.axes)


def fitted(value: Value, operands: tuple[Array, ...]) -> list[Array]:
    """All operands made to broadcast against the result."""
    return [fit(a, s, value.type) for a, s in zip(operands, value.args, strict=True)]


def elementwise(fn: Callable[..., Array]) -> Evaluate:
    """The rule of an op that applies a NumPy function element by element."""

    def evaluate(value: Value, operands: tuple[Array, ...], frame: Frame) -> Array:
        return np.asarray(fn(*fitted(value, operands)))

    return evaluate


def positions(value: Value, names: tuple[str, ...]) -> tuple[int, ...]:
    """The array axes of an operand that carry the named axes."""
    return tuple(int(value.kind) + value.names.index(n) for n in names)


def sum_of_products(
    left: tuple[Array, Value], right: tuple[Array, Value], result: Type, keys: Array | None = None
) -> Array:
    """Sums the product of two operands over every axis that the result lacks.

    `keys` weighs the pairs [B, T, S] and sums over S as well.
    """
    letters = {n: i + 3 for i, n in enumerate({**left[1].type.sizes, **right[1].type.sizes})}

    def labels(of: Type) -> list[int]:
        return [*range(of.kind), *(letters[n] for n in of.names)]

    terms: list[Any] = [left[0], labels(left[1].type), right[0], labels(right[1].type)]
    if keys is not None:
        terms += [keys.astype(float), [0, 1, 2]]
    return np.asarray(np.einsum(*terms, labels(result), optimize=True))
