"""Graphs as text, data and drawings."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import pytest

from archc.ir import draw, show
from archc.ir.graph import Graph

SPECS = sorted(p.stem for p in (Path(__file__).parents[2] / "specs").glob("*.arch"))
TEXT = """\
model m(tokens) -> logits
    %0 tokens = input() name=tokens : token[] int
    %1 pos = pos() : token[] int  # not used
    %2 E = weight() path=E : weight[vocab=11 width=4]
    %3 = lookup(%2, %0) : token[width=4]
    %4 = stack(%3) : token[]
    %5 x = stack_out(%4) index=0 : token[width=4]
    %6 U = weight() path=U : weight[width=4 vocab=11]
    %7 logits = contract(%5, %6) over=(width) made=(vocab) : token[vocab=11]
    return %7

region layer(%8 x: token[width=4])  # layer 0 of %4
    %9 x = fp32(%8) : token[width=4] fp32
    %10 h = scan(0.5, %9) state=f.h : token[width=4] fp32
    %11 h = narrow(%10) : token[width=4]
    %12 x = add(%8, %11) : token[width=4]
    return %12
"""


def test_a_graph_as_text(mixer: Callable[[str], Graph]) -> None:
    assert show.text(mixer("h = scan(decay = 0.5, input = fp32(x))\nreturn h")) == TEXT


def test_the_text_does_not_depend_on_what_was_elaborated_before(mixer: Callable[[str], Graph]) -> None:
    one, _, two = (mixer(f"return {e}") for e in ("tanh(x)", "exp(x)", "tanh(x)"))
    assert show.text(one, spans=True) == show.text(two, spans=True)
    assert draw.svg(one) == draw.svg(two)


def test_places_are_shown_on_request(mixer: Callable[[str], Graph]) -> None:
    assert "# spec.arch:7:8" in show.text(mixer("return tanh(x)"), spans=True)


@pytest.mark.parametrize("name", SPECS)
def test_the_view_of_every_spec_is_an_acyclic_graph_of_all_values(tiny: Callable[[str], Graph], name: str) -> None:
    graph = tiny(name)
    view = show.as_networkx(graph)
    assert nx.is_directed_acyclic_graph(view)
    data = json.loads(json.dumps(show.as_json(graph, spans=True)))
    listed = {v["id"]: v for region in data["regions"] for v in region["values"]}
    assert set(view.nodes) == set(listed)
    for number, each in listed.items():
        operands = [a["value"] for a in each["args"] if "value" in a]
        assert sorted(a for a, _, d in view.in_edges(number, data=True) if not d["stream"]) == sorted(operands)
    assert set(data["weights"]) == set(graph.named_weights())


@pytest.mark.parametrize("name", SPECS)
def test_drawings_of_every_spec(tiny: Callable[[str], Graph], name: str) -> None:
    graph = tiny(name)
    panels = draw.outline(graph)
    assert [p.title.split(":")[0] for p in panels[:1]] == [f"{graph.kind} {graph.name}"]
    root = ElementTree.fromstring(draw.svg(graph))
    space = "{http://www.w3.org/2000/svg}"
    groups = root.findall(f"{space}g")
    assert len(groups) == len(panels)
    for panel, group in zip(panels, groups, strict=True):
        boxes = [(float(r.get("x", "")), float(r.get("y", ""))) for r in group.findall(f"{space}rect")]
        assert len(boxes) == len(panel.boxes)
        for i, (x, y) in enumerate(boxes):
            assert all(abs(x - a) >= draw.WIDTH or abs(y - b) >= draw.HEIGHT for a, b in boxes[:i])
    for text in (draw.dot(graph), draw.mermaid(graph)):
        assert text.count("->") == sum(len(p.edges) for p in panels)


def test_a_drawing_shows_calls_and_the_plan_of_layers(tiny: Callable[[str], Graph]) -> None:
    main, recurrent, local = draw.outline(tiny("griffin"))
    assert [b.label for b in main.boxes.values()] == ["tokens", "E[...]", "6 layers", "rms_norm", "@ E", "logits"]
    assert (recurrent.title, local.title) == ("recurrent: layers 0-1, 3-4", "local: layers 2, 5")
    labels = [b.label for b in recurrent.boxes.values()]
    assert labels == ["x", "rms_norm", "rg_lru", "+", "rms_norm", "geglu_affine", "+", "x"]
    flow = nx.DiGraph((recurrent.boxes[a].label, recurrent.boxes[b].label) for a, b in recurrent.edges)
    assert set(flow.successors("x")) == {"rms_norm", "+"}


def test_runs_of_layers_are_shortened() -> None:
    assert show.ranges([3]) == "3"
    assert show.ranges([0, 1, 3, 4, 5, 9]) == "0-1, 3-5, 9"
