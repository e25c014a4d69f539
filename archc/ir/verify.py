"""Whether a graph is what the rest of the compiler takes for granted: types, order, regions, layers, weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from archc.ir.graph import Graph, Kind, Layer, Operand, Region, Type, Value, regions_of

Infer = Callable[[tuple[Operand, ...], Mapping[str, Any]], Type]


class BrokenGraph(AssertionError):
    """A mistake of the compiler: a pass or the elaborator made a graph that contradicts itself."""


def verify(graph: Graph, infer: Mapping[str, Infer]) -> None:
    """Raises `BrokenGraph`, naming the value, unless the graph is sound.

    Every value has the type that the rule of its op infers; operands come before their users, in the same region or an
    enclosing one; results and parameters of regions fit what they stand for; every weight is declared once.
    """
    _region(graph.main, frozenset(), infer)
    _require(bool(graph.main.results), graph.main, "the model has no result")
    _require(len(graph.main.results) == len(graph.outputs), graph.main, "outputs and results differ in number")
    _weights(graph)


def _require(condition: bool, where: Value | Region, what: str) -> None:
    if not condition:
        name = f"region '{where.name}'" if isinstance(where, Region) else f"{where!r} '{where.label}'"
        raise BrokenGraph(f"{name}: {what}")


def _region(region: Region, outside: frozenset[Value], infer: Mapping[str, Infer]) -> None:
    known = set(outside) | set(region.params)
    for param in region.params:
        _require(param.op == "param", param, "a parameter must be of op 'param'")
    for value in region.values:
        if value in region.params:
            continue
        _require(value not in known, value, "is made twice")
        _require(value.op in infer, value, f"no op '{value.op}'")
        for operand in value.operands:
            _require(operand in known, value, f"uses {operand!r} before it is made")
        found = infer[value.op](value.args, value.attrs)
        _require(found == value.type, value, f"its op infers {found}, {found.dtype}, wide={found.wide}")
        for inner in regions_of(value):
            _region(inner, frozenset(known), infer)
        _inside(value)
        known.add(value)
    for result in region.results:
        _require(result in known, region, f"result {result!r} is not made in it")


def _inside(value: Value) -> None:
    """The regions of a stack or a loop against the values they are handed."""
    if value.op == "stack":
        layers: tuple[Layer, ...] = value.attrs["layers"]
        _require([layer.index for layer in layers] == list(range(len(layers))), value, "layers are out of order")
        _require(len({layer.prefix for layer in layers}) == len(layers), value, "two layers share a prefix")
        for layer in layers:
            for stream, param, result in zip(value.operands, layer.region.params, layer.region.results, strict=True):
                _require(stream.type.sizes == param.type.sizes, param, f"stands for {stream!r}")
                _require(stream.type.sizes == result.type.sizes, result, f"must give back {stream!r}")
    if value.op == "loop":
        body: Region = value.attrs["body"]
        _require(len(value.attrs["states"]) == len(body.params), value, "one name per state")
        _require(len(value.args) == len(body.params), value, "one start per state")
        for param, result in zip(body.params, body.results, strict=False):
            _require(param.kind is Kind.TOKEN, param, "a state is a token")
            _require(param.type.sizes == result.type.sizes, result, f"must give back the state {param!r}")


def _weights(graph: Graph) -> None:
    """Declared weights and `weight` values must agree."""
    names: set[str] = set()
    for region, prefixes in graph.regions():
        for prefix in prefixes:
            for weight in graph.weights.get(region, ()):
                name = f"{prefix}.{weight.path}"
                _require(name not in names, region, f"weight '{name}' is declared twice")
                names.add(name)
    for region, prefixes in graph.regions():
        for value in region.values:
            if value.op == "weight" and value in region.live:
                for prefix in prefixes:
                    _require(f"{prefix}.{value.attrs['path']}" in names, value, "its weight is not declared")
