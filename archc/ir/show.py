"""A graph as text, as data and as a networkx graph: the same graph always gives the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import networkx as nx

from archc.ir.graph import Axis, Graph, Layer, Operand, Region, Value, regions_of

HIDDEN = ("type", "layers", "body")


def number(graph: Graph) -> dict[Value, int]:
    """Values numbered in the order of the text, region after region: independent of how the graph was made."""
    order: dict[Value, int] = {}
    for region in _regions(graph.main):
        for value in (*region.params, *region.values):
            order.setdefault(value, len(order))
    return order


def text(graph: Graph, spans: bool = False) -> str:
    """The graph line by line: `%7 x = contract(%3, %5) over=(width) : token[hidden=64]`, with places if wanted."""
    order = number(graph)
    lines = [f"{graph.kind} {graph.name}({', '.join(graph.inputs)}) -> {', '.join(graph.outputs)}"]
    lines += _body(graph.main, order, spans, "    ")
    for region in _regions(graph.main):
        for value in region.values:
            for inner in regions_of(value):
                params = ", ".join(f"%{order[p]} {p.label}: {p.type}" for p in inner.params)
                lines += ["", f"region {inner.name}({params})  # {_use(value, inner, order)}"]
                lines += _body(inner, order, spans, "    ")
    return "\n".join(lines) + "\n"


def _regions(region: Region) -> Iterator[Region]:
    yield region
    for value in region.values:
        for inner in regions_of(value):
            yield from _regions(inner)


def _use(value: Value, region: Region, order: dict[Value, int]) -> str:
    if value.op == "loop":
        return f"body of loop %{order[value]}"
    layers: tuple[Layer, ...] = value.attrs["layers"]
    return f"{plan([layer.index for layer in layers if layer.region is region])} of %{order[value]}"


def plan(layers: list[int]) -> str:
    """Which layers: `layer 3`, `layers 0-2, 4`."""
    return f"layer{'' if len(layers) == 1 else 's'} {ranges(layers)}"


def ranges(numbers: list[int]) -> str:
    """Whole numbers in order, runs shortened.

    >>> ranges([0, 1, 2, 4, 6, 7])
    '0-2, 4, 6-7'
    """
    runs: list[tuple[int, int]] = []
    for n in numbers:
        if runs and runs[-1][1] == n - 1:
            runs[-1] = (runs[-1][0], n)
        else:
            runs.append((n, n))
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _body(region: Region, order: dict[Value, int], spans: bool, indent: str) -> list[str]:
    lines = []
    for value in region.values:
        if value in region.params:
            continue
        dead = "" if value in region.live else "  # not used"
        place = f"  # {value.origin.span}" if spans and value.origin.span is not None else ""
        label = f" {value.label}" if value.label else ""
        operands = ", ".join(_operand(a, order) for a in value.args)
        attrs = "".join(f" {k}={_attr(v)}" for k, v in value.attrs.items() if k not in HIDDEN)
        kind = f"{value.type}{_element(value)}"
        lines.append(f"{indent}%{order[value]}{label} = {value.op}({operands}){attrs} : {kind}{dead}{place}")
    results = ", ".join(f"%{order[r]}" for r in region.results)
    return [*lines, f"{indent}return {results}"]


def _element(value: Value) -> str:
    dtype = "" if value.type.dtype == "real" else f" {value.type.dtype}"
    return dtype + (" fp32" if value.type.wide else "")


def _operand(operand: Operand, order: dict[Value, int]) -> str:
    return f"%{order[operand]}" if isinstance(operand, Value) else repr(operand)


def _attr(attr: Any) -> str:
    match attr:
        case Mapping():
            return "{" + ", ".join(f"{k}: {v}" for k, v in attr.items()) + "}"
        case tuple():
            return "(" + " ".join(str(each) for each in attr) + ")"
    return str(attr)


def as_networkx(graph: Graph) -> nx.MultiDiGraph:
    """Nodes are values (op, label, kind, axes, region), edges lead from operand to user and carry the operand's index.

    Edges with `stream=True` lead from what a stack or loop is given to the parameter that stands for it.
    """
    order = number(graph)
    view: nx.MultiDiGraph = nx.MultiDiGraph(name=graph.name)
    for region in _regions(graph.main):
        for value in (*region.params, *region.values):
            view.add_node(
                order[value],
                op=value.op,
                label=value.label,
                kind=value.kind.word,
                axes={a.name: a.size for a in value.type.axes},
                region=region.name,
            )
        for value in region.values:
            for index, operand in enumerate(value.args):
                if isinstance(operand, Value):
                    view.add_edge(order[operand], order[value], index=index, stream=False)
            for inner in regions_of(value):
                for index, (given, param) in enumerate(zip(value.args, inner.params, strict=True)):
                    if isinstance(given, Value):
                        view.add_edge(order[given], order[param], index=index, stream=True)
    return view


def as_json(graph: Graph, spans: bool = False) -> dict[str, Any]:
    """The whole graph as data that `json.dumps` accepts: values, regions, layers, weights."""
    order = number(graph)
    regions = list(dict.fromkeys(_regions(graph.main)))
    place = {region: index for index, region in enumerate(regions)}
    return {
        "name": graph.name,
        "kind": graph.kind,
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "regions": [
            {
                "name": region.name,
                "params": [order[p] for p in region.params],
                "results": [order[r] for r in region.results],
                "values": [_as_data(v, order, place, spans) for v in dict.fromkeys((*region.params, *region.values))],
            }
            for region in regions
        ],
        "weights": {
            name: {
                "axes": _axes(weight.type.axes),
                "role": weight.role,
                "frozen": weight.frozen,
            }
            for name, weight in graph.named_weights().items()
        },
    }


def _axes(axes: tuple[Axis, ...]) -> list[list[str | int]]:
    return [[a.name, a.size] for a in axes]


def _as_data(value: Value, order: dict[Value, int], place: dict[Region, int], spans: bool) -> dict[str, Any]:
    out: dict[str, Any] = {
        "id": order[value],
        "op": value.op,
        "label": value.label,
        "args": [{"value": order[a]} if isinstance(a, Value) else {"number": a} for a in value.args],
        "kind": value.kind.word,
        "axes": _axes(value.type.axes),
        "dtype": value.type.dtype,
        "wide": value.type.wide,
        "attrs": {k: _plain(v) for k, v in value.attrs.items() if k not in HIDDEN},
    }
    if value.op == "stack":
        layers: tuple[Layer, ...] = value.attrs["layers"]
        out["layers"] = [{"block": x.block, "prefix": x.prefix, "region": place[x.region]} for x in layers]
    if value.op == "loop":
        out["body"] = place[value.attrs["body"]]
    if spans and value.origin.span is not None:
        out["span"] = str(value.origin.span)
    return out


def _plain(attr: Any) -> Any:
    match attr:
        case Axis():
            return [attr.name, attr.size]
        case Mapping():
            return {str(k): _plain(v) for k, v in attr.items()}
        case tuple() | list():
            return [_plain(each) for each in attr]
    return attr
