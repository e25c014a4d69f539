"""The pictures of a graph that `archc graph` writes, by the ending of the file."""

from __future__ import annotations

import json
from collections.abc import Callable

from archc.diagnostics import error
from archc.ir.draw import dot, mermaid, svg
from archc.ir.graph import Graph
from archc.ir.show import as_json

_DRAWN: dict[str, Callable[[Graph], str]] = {
    ".svg": svg,
    ".dot": dot,
    ".mmd": mermaid,
    ".json": lambda graph: json.dumps(as_json(graph, spans=True), indent=1) + "\n",
}


def draw(graph: Graph, ending: str) -> str:
    """The text of a picture: `.svg`, `.dot` (Graphviz), `.mmd` (Mermaid) or `.json`; `ArchError` E611 if another."""
    if ending not in _DRAWN:
        raise error("E611", f"cannot draw '{ending}' files", help=f"name the file with one of {', '.join(_DRAWN)}")
    return _DRAWN[ending](graph)
