"""Graphs for the regions: specs of the repository, and bodies written in a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from archc.diagnostics import Source
from archc.elaborate import elaborate, load
from archc.ir.graph import Graph

SPECS = Path(__file__).parents[2] / "specs"


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Graph]:
    """The graph of a spec of the repository at its smallest size."""

    def smallest(name: str) -> Graph:
        text = (SPECS / f"{name}.arch").read_text(encoding="utf-8")
        return elaborate(load(Source(name, text), SPECS), size="tiny" if "size tiny" in text else None).graph

    return smallest


def mixer_text(body: str, more: str = "") -> str:
    """A model of one layer, width 4, whose block is `x = x + f(x)` with the given body of `fn f(x[width])`."""
    return (
        "model m(width = 4, depth = 1, vocab = 11) {\n"
        "    block layer { x = x + f(x) }\n"
        "    x = stack(E[vocab width](tokens), depth, [layer])\n"
        "    logits = x @ U[width -> vocab]\n"
        "}\n"
        f"fn f(x[width]) {{\n{body}\n}}\n{more}"
    )


@pytest.fixture(scope="session")
def mixer() -> Callable[..., Graph]:
    """The graph of such a model."""

    def build(body: str, more: str = "") -> Graph:
        return elaborate(load(Source("spec.arch", mixer_text(body, more)), None)).graph

    return build
