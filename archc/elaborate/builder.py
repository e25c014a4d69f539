"""A region while it is built, and the weights that were first written in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from archc.diagnostics import Span
from archc.elaborate.bound import Scope
from archc.elaborate.call import Call
from archc.ir.graph import Region, Value


@dataclass(eq=False)
class Builder:
    """A region under construction."""

    name: str
    ids: Iterator[int]
    parent: Builder | None = None
    params: list[Value] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    lifted: dict[Value, Value] = field(default_factory=dict)
    widened: dict[Value, Value] = field(default_factory=dict)
    weights: list[WeightDraft] = field(default_factory=list)

    @property
    def outside(self) -> Builder:
        """The region that weights belong to: the layer or the model, not a loop inside of it."""
        return self.parent.outside if self.name == "loop" and self.parent is not None else self

    def finish(self, results: tuple[Value, ...]) -> Region:
        """The region as data."""
        return Region(self.name, tuple(self.params), tuple(self.values), results)


@dataclass(eq=False)
class WeightDraft:
    """A weight as it was first written: its uses may change its role."""

    value: Value
    name: str
    call: Call
    scope: Scope
    role: Literal["matrix", "table", "scale", "bias"]
    frozen: bool
    contracted: tuple[str, ...]
    kept: tuple[str, ...]
    span: Span
