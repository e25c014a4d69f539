"""The graph: values made by ops over named axes, in regions; weights with their full names; plain data, no rules.

A region is a straight line of values. The main region is the model; a `stack` holds one region per distinct pair of
block and arguments and the plan that says which layer runs which; a `loop` holds the region of its body. A region may
use values of the regions around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from math import prod
from typing import Any, Literal

from archc.diagnostics import Span

DType = Literal["bool", "int", "real", "complex"]


class Kind(IntEnum):
    """What there is one value of; a kind is promoted to the ones after it, but a token never to a pair by itself."""

    WEIGHT = 0
    SEQ = 1
    TOKEN = 2
    PAIR = 3

    @property
    def word(self) -> str:
        """The kind in a sentence."""
        return ("weight", "sequence value", "token", "pair")[self]


@dataclass(frozen=True, slots=True)
class Axis:
    """A named axis and its size."""

    name: str
    size: int

    def __str__(self) -> str:
        return f"{self.name}={self.size}"


@dataclass(frozen=True, slots=True)
class Type:
    """Kind, feature axes in order, element type; `wide`: computed in (at least) single precision."""

    kind: Kind
    axes: tuple[Axis, ...] = ()
    dtype: DType = "real"
    wide: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the axes, in order."""
        return tuple(a.name for a in self.axes)

    @property
    def sizes(self) -> dict[str, int]:
        """Size by name."""
        return {a.name: a.size for a in self.axes}

    @property
    def elements(self) -> int:
        """Elements of one value (per token, per pair, ...)."""
        return prod(a.size for a in self.axes)

    def __str__(self) -> str:
        return f"{self.kind.word}[{' '.join(map(str, self.axes))}]"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written, and the calls that led there, outermost first."""

    span: Span | None = None
    calls: tuple[Span, ...] = ()


@dataclass(eq=False, slots=True)
class Value:
    """The result of one op. Compared by identity; only `label` is set later, by the `let` that names it."""

    id: int
    op: str
    args: tuple[Operand, ...]
    type: Type
    attrs: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)
    label: str = ""

    @property
    def operands(self) -> tuple[Value, ...]:
        """The arguments that are values (the others are numbers)."""
        return tuple(a for a in self.args if isinstance(a, Value))

    @property
    def kind(self) -> Kind:
        """The kind of its type."""
        return self.type.kind

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its axes."""
        return self.type.names

    def __repr__(self) -> str:
        return f"%{self.id}:{self.op}:{self.type}"


Operand = Value | int | float


@dataclass(frozen=True, eq=False)
class Region:
    """A straight line of values: `params` stand for what is handed in (streams of a block, states of a loop)."""

    name: str
    params: tuple[Value, ...]
    values: tuple[Value, ...]
    results: tuple[Value, ...]

    @cached_property
    def live(self) -> frozenset[Value]:
        """The values of this region that its results depend on."""
        seen: set[Value] = set()
        inside = set(self.values) | set(self.params)
        todo = list(self.results)
        while todo:
            value = todo.pop()
            if value in seen or value not in inside:
                continue
            seen.add(value)
            todo += value.operands
            for region in regions_of(value):
                todo += captures(region)
        return frozenset(seen)

    @cached_property
    def users(self) -> dict[Value, tuple[Value, ...]]:
        """Who reads a value, among the live values of this region."""
        out: dict[Value, list[Value]] = {}
        for value in self.values:
            if value in self.live:
                for arg in dict.fromkeys(value.operands):
                    out.setdefault(arg, []).append(value)
        return {k: tuple(v) for k, v in out.items()}


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a stack: the region it runs and the prefix of its weights and states (`layers.3`)."""

    index: int
    block: str
    prefix: str
    region: Region


def regions_of(value: Value) -> tuple[Region, ...]:
    """The distinct regions inside of a stack or a loop."""
    if value.op == "stack":
        layers: tuple[Layer, ...] = value.attrs["layers"]
        return tuple(dict.fromkeys(layer.region for layer in layers))
    if value.op == "loop":
        return (value.attrs["body"],)
    return ()


def captures(region: Region) -> tuple[Value, ...]:
    """The values of enclosing regions that a region uses."""
    inside = set(region.values) | set(region.params)
    out: dict[Value, None] = {}
    for value in region.values:
        needed = (*value.operands, *(c for r in regions_of(value) for c in captures(r)))
        out.update(dict.fromkeys(v for v in needed if v not in inside))
    out.update(dict.fromkeys(v for v in region.results if v not in inside))
    return tuple(out)


@dataclass(frozen=True, eq=False)
class Weight:
    """One tensor of a region: its name below the prefix of the layer, its axes in the order of storage.

    `contracted` are the axes that the first use of a matrix contracts, or the head that a table is tied with; `kept`
    those on both sides of an arrow: storage of a matrix is [kept, contracted, made]. `init` is a region of `WEIGHT`
    values that ends in the initial value, or None for the default of its `role`.
    """

    path: str
    type: Type
    frozen: bool
    role: Literal["matrix", "table", "scale", "bias"]
    init: Region | None
    contracted: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    origin: Origin = field(default_factory=Origin)

    @property
    def row_axes(self) -> int:
        """How many of its axes, those kept left out, are the rows of what it is as a matrix; the others are columns."""
        return 1 if self.role == "table" else max(1, sum(name not in self.kept for name in self.contracted))


@dataclass(frozen=True, eq=False)
class Graph:
    """A checked model. `weights` belong to regions by the identity of the region; see `archc.passes.weights` for
    full names."""

    name: str
    kind: Literal["model", "encoder"]
    main: Region
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: Mapping[Region, tuple[Weight, ...]]

    def regions(self) -> Iterator[tuple[Region, tuple[str, ...]]]:
        """Every region with the prefixes under which it runs (`("",)` for the main one), outermost first."""
        yield from _below(self.main, ("",))

    def named_weights(self) -> dict[str, Weight]:
        """Full checkpoint name -> weight, in the order of the text and of the layers."""
        out: dict[str, Weight] = {}
        for region, prefixes in self.regions():
            for prefix in prefixes:
                for weight in self.weights.get(region, ()):
                    out[f"{prefix}.{weight.path}" if prefix else weight.path] = weight
        return out


def _below(region: Region, prefixes: tuple[str, ...]) -> Iterator[tuple[Region, tuple[str, ...]]]:
    yield region, prefixes
    for value in region.values:
        if value not in region.live:
            continue
        if value.op == "stack":
            layers: tuple[Layer, ...] = value.attrs["layers"]
            for inner in regions_of(value):
                yield from _below(inner, tuple(layer.prefix for layer in layers if layer.region is inner))
        if value.op == "loop":
            yield from _below(value.attrs["body"], prefixes)
