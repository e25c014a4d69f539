"""The call tree: which fn was called where, with which arguments, and what every expression in it came to.

The flat graph answers questions; the call tree keeps the shape of the text. Emission walks the statements of a
definition and looks up in `facts` what each expression became in one call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from archc.diagnostics import Source
from archc.elaborate.bound import Bound, Instance
from archc.elaborate.numbers import Num
from archc.ir.graph import Graph, Layer, Region, Value, Weight
from archc.text import ast

Definition = ast.FnDef | ast.BlockDef | ast.ModelDef


@dataclass(eq=False)
class Call:
    """One activation of a fn, a block or the model.

    `arguments` holds every parameter (given or by default), `renamed` the caller's axis for each axis that was renamed
    on the way in, `returned` what it gave back before the axes were renamed again, `nodes` the expression that made a
    value (the inverse of `facts`, before widening; names aside).
    """

    definition: Definition
    instance: Instance
    region: Region | None = None
    arguments: dict[str, Bound] = field(default_factory=dict)
    defaulted: set[str] = field(default_factory=set)
    renamed: dict[str, str] = field(default_factory=dict)
    facts: dict[ast.Node, Bound] = field(default_factory=dict)
    nodes: dict[Value, ast.Expr] = field(default_factory=dict)
    calls: dict[ast.Call, Call] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    inits: dict[str, ast.Expr] = field(default_factory=dict)
    returned: tuple[Bound, ...] = ()
    results: tuple[Bound, ...] = ()
    stacks: dict[ast.Call, Stack] = field(default_factory=dict)
    shared: dict[str, ast.Shared] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the definition."""
        return self.definition.name.text

    def walk(self) -> Iterator[Call]:
        """This call and all calls below it, in the order of the text; blocks of a stack once each."""
        yield self
        for call in self.calls.values():
            yield from call.walk()
        for stack in self.stacks.values():
            for call in stack.distinct:
                yield from call.walk()

    def is_shared(self, node: ast.Call) -> bool:
        """Whether a call below is of a fn that was made by `shared`."""
        return self.calls[node].instance not in self.instance.children.values()

    def way_to(self, weight: Value) -> tuple[ast.Call, ...] | None:
        """The calls that lead to the instance which has a weight, outermost first; None if there is no way from here:
        what is handed to calls below is not ours to name."""
        if weight in self.instance.weights.values():
            return ()
        for node, below in self.calls.items():
            rest = below.way_to(weight)
            if rest is not None and not any(below.is_shared(n) for n in rest[:1]):
                return (node, *rest)
        return None


@dataclass(frozen=True, eq=False)
class Stack:
    """A stack: its layers in order and the call that each runs; equal calls are one object."""

    node: ast.Call
    value: Value
    streams: tuple[str, ...]
    layers: tuple[Layer, ...]
    calls: tuple[Call, ...]
    period: int

    @property
    def distinct(self) -> tuple[Call, ...]:
        """The different calls, in the order of their first layer."""
        return tuple(dict.fromkeys(self.calls))


@dataclass(frozen=True, eq=False)
class Program:
    """A checked spec: the graph for questions, the call tree for text."""

    graph: Graph
    root: Call
    model: ast.ModelDef
    settings: dict[str, Num]
    size: str | None
    sources: tuple[Source, ...]
    sizes: tuple[str, ...]

    def __repr__(self) -> str:
        """Its name alone, for all it holds would fill the screen of a notebook."""
        return f"<{self.model.kind} {self.model.name.text}{f':{self.size}' if self.size else ''}>"
