"""Drawings of a graph at the level of calls, one panel for the model and one per distinct layer: DOT, Mermaid, SVG."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Literal

import networkx as nx

from archc.ir.calls import call_of, callee, depth
from archc.ir.graph import Graph, Kind, Layer, Region, Value, regions_of
from archc.ir.show import plan

QUIET = ("rename", "fp32", "narrow", "stack_out", "loop_out", "weight", "pos", "index", "mask")
SIGNS = {"add": "+", "sub": "-", "mul": "x", "div": "/", "contract": "@"}
Shape = Literal["call", "op", "end"]


@dataclass(frozen=True)
class Box:
    """A call, an op written directly in the block, or an end: what goes in or comes out."""

    label: str
    shape: Shape
    detail: str = ""


@dataclass(eq=False)
class Panel:
    """A region in outline: boxes by key, and which feeds which."""

    title: str
    boxes: dict[str, Box] = field(default_factory=dict)
    edges: dict[tuple[str, str], None] = field(default_factory=dict)


def outline(graph: Graph) -> tuple[Panel, ...]:
    """The model, then each distinct layer: values of one call are one box."""
    panels = [_panel(graph.main, f"{graph.kind} {graph.name}", "m", graph.outputs)]
    for value in graph.main.values:
        if value.op == "stack" and value in graph.main.live:
            layers: tuple[Layer, ...] = value.attrs["layers"]
            for index, region in enumerate(regions_of(value)):
                used = [x.index for x in layers if x.region is region]
                names = tuple(p.label for p in region.params)
                panels.append(_panel(region, f"{region.name}: {plan(used)}", f"b{index}_", names))
    return tuple(panels)


def _panel(region: Region, title: str, key: str, outputs: tuple[str, ...]) -> Panel:
    panel = Panel(title)
    boxes: dict[Value, str] = {}
    groups: dict[object, str] = {}
    level = depth(region)

    def new(label: str, shape: Shape, detail: str = "") -> str:
        name = f"{key}{len(panel.boxes)}"
        panel.boxes[name] = Box(label, shape, detail)
        return name

    for value in (*region.params, *region.values):
        if value not in region.live or value in boxes:
            continue
        if value in region.params or value.op == "input":
            boxes[value] = new(value.label or value.attrs["name"], "end", _axes(value))
            continue
        call = call_of(value, level)
        if call is not None and value.op not in ("stack_out", "stack"):
            name = groups.get(call)
            if name is None:
                name = groups[call] = new(callee(call), "call", "")
            boxes[value] = name
        elif value.op in QUIET:
            before = [boxes[v] for v in value.operands if v in boxes]
            if before:
                boxes[value] = before[0]
            continue
        else:
            boxes[value] = new(*_op_box(value))
        for operand in value.operands:
            if operand in boxes and boxes[operand] != boxes[value]:
                panel.edges[boxes[operand], boxes[value]] = None
    for label, result in zip(outputs, region.results, strict=True):
        end = new(label, "end", _axes(result))
        panel.edges[boxes[result], end] = None
    return panel


def _op_box(value: Value) -> tuple[str, Shape, str]:
    if value.op == "stack":
        layers: tuple[Layer, ...] = value.attrs["layers"]
        return f"{len(layers)} layers", "call", ", ".join(dict.fromkeys(x.block for x in layers))
    names = [v.label for v in value.operands if v.op == "weight"]
    weight = f" {names[0]}" if names else ""
    word = SIGNS.get(value.op, value.op)
    if value.op == "lookup":
        return f"{names[0]}[...]", "op", _axes(value)
    return f"{word}{weight}", "op", _axes(value) if weight else ""


def _axes(value: Value) -> str:
    mark = "" if value.kind is Kind.TOKEN else f"{value.kind.word} "
    return f"{mark}[{' '.join(map(str, value.type.axes))}]"


def dot(graph: Graph) -> str:
    """Graphviz: one cluster per panel."""
    lines = [f'digraph "{graph.name}" {{', "    rankdir=TB; node [fontname=Helvetica, shape=box];"]
    for index, panel in enumerate(outline(graph)):
        lines += [f"    subgraph cluster_{index} {{", f'        label="{panel.title}";']
        for name, box in panel.boxes.items():
            label = box.label + (f"\\n{box.detail}" if box.detail else "")
            style = {"call": "style=rounded", "op": "shape=ellipse", "end": "shape=plain"}[box.shape]
            lines.append(f'        {name} [label="{label}", {style}];')
        lines += [f"        {a} -> {b};" for a, b in panel.edges]
        lines.append("    }")
    return "\n".join([*lines, "}", ""])


def mermaid(graph: Graph) -> str:
    """Mermaid flowchart: one subgraph per panel."""
    lines = ["flowchart TB"]
    for index, panel in enumerate(outline(graph)):
        lines.append(f'    subgraph p{index}["{panel.title}"]')
        for name, box in panel.boxes.items():
            label = box.label + (f"<br/>{box.detail}" if box.detail else "")
            left, right = {"call": ("[", "]"), "op": ("([", "])"), "end": ("[/", "/]")}[box.shape]
            lines.append(f'        {name}{left}"{label}"{right}')
        lines += [f"        {a} --> {b}" for a, b in panel.edges]
        lines.append("    end")
    return "\n".join([*lines, ""])


# --- SVG: rows by longest path, places in a row by the mean of what feeds a box ----------------------------------

WIDTH, HEIGHT, GAP, ROW = 150, 40, 24, 74
STYLE = (
    "text{font:12px Helvetica,Arial,sans-serif;text-anchor:middle}.d{font-size:10px;fill:#666}.t{font-size:14px;"
    "font-weight:bold}.call{fill:#e8f0fb;stroke:#36c}.op{fill:#fff;stroke:#888}.end{fill:#eee;stroke:none}"
    "path{fill:none;stroke:#555}"
)


def svg(graph: Graph) -> str:
    """The panels side by side, data flowing down; nothing but the SVG itself is needed to show it."""
    parts: list[str] = []
    left, lowest = 0.0, 0.0
    for panel in outline(graph):
        places = _places(panel)
        width = max(x for x, _ in places.values()) + WIDTH + 2 * GAP
        lowest = max(lowest, max(y for _, y in places.values()) + HEIGHT + 2 * GAP)
        parts.append(f'<g transform="translate({left:g},0)">')
        parts += _drawn(panel, places, width)
        parts.append("</g>")
        left += width
    size = f'width="{left:g}" height="{lowest:g}" viewBox="0 0 {left:g} {lowest:g}"'
    marker = (
        '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0L8,4L0,8"/></marker></defs>'
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>{marker}'
    return "\n".join([head, *parts, "</svg>", ""])


def _places(panel: Panel) -> dict[str, tuple[float, float]]:
    view = nx.DiGraph(list(panel.edges))
    view.add_nodes_from(panel.boxes)
    places: dict[str, tuple[float, float]] = {}
    for row, names in enumerate(nx.topological_generations(view)):
        wanted = {n: _mean([places[p][0] for p in view.predecessors(n)]) for n in names}
        x = 0.0
        for name in sorted(names, key=lambda n: (wanted[n], list(panel.boxes).index(n))):
            x = max(x, wanted[name])
            places[name] = (x, row * ROW + 2 * GAP)
            x += WIDTH + GAP
    return {n: (x + GAP, y) for n, (x, y) in places.items()}


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0


def _drawn(panel: Panel, places: dict[str, tuple[float, float]], width: float) -> Iterator[str]:
    yield f'<text class="t" x="{width / 2:g}" y="20">{escape(panel.title)}</text>'
    for a, b in panel.edges:
        (x1, y1), (x2, y2) = places[a], places[b]
        x1, y1, x2 = x1 + WIDTH / 2, y1 + HEIGHT, x2 + WIDTH / 2
        bend = 0 if y2 - y1 < ROW else (WIDTH / 2 + GAP / 2) * (1 if x2 >= x1 else -1)
        yield (
            f'<path d="M{x1:g},{y1:g}C{x1 + bend:g},{y1 + ROW / 2:g} {x2 + bend:g},{y2 - ROW / 2:g} {x2:g},{y2:g}" '
            'marker-end="url(#a)"/>'
        )
    for name, box in panel.boxes.items():
        x, y = places[name]
        round_ = 18 if box.shape == "op" else 6
        yield f'<rect class="{box.shape}" x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="{round_}"/>'
        middle = y + (17 if box.detail else 24)
        yield f'<text x="{x + WIDTH / 2:g}" y="{middle:g}">{escape(box.label)}</text>'
        if box.detail:
            yield f'<text class="d" x="{x + WIDTH / 2:g}" y="{y + 31:g}">{escape(box.detail)}</text>'
