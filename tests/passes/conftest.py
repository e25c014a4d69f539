"""Graphs for the folds: specs of the repository, texts written in a test, values built by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from archc.diagnostics import Source
from archc.elaborate import elaborate, load
from archc.ir.graph import Graph

SPECS = Path(__file__).parents[2] / "specs"


@cache
def _spec(name: str, size: str | None) -> Graph:
    path = SPECS / f"{name}.arch"
    return elaborate(load(Source(path.name, path.read_text(encoding="utf-8")), SPECS), size=size).graph


@pytest.fixture(scope="session")
def spec() -> Callable[..., Graph]:
    """The graph of a spec of the repository, by name, at a named size."""
    return lambda name, size=None: _spec(name, size)


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Graph]:
    """The graph of a spec at its smallest size."""

    def smallest(name: str) -> Graph:
        text = (SPECS / f"{name}.arch").read_text(encoding="utf-8")
        return _spec(name, "tiny" if "size tiny" in text else None)

    return smallest


@pytest.fixture(scope="session")
def model() -> Callable[[str], Graph]:
    """The graph of a text."""
    return lambda text: elaborate(load(Source("spec.arch", text), None)).graph


@pytest.fixture(scope="session")
def mixer(model: Callable[[str], Graph]) -> Callable[[str], Graph]:
    """A model of one layer, width 4, whose block is `x = x + f(x)` with the given body of `fn f(x[width])`."""

    def build(body: str) -> Graph:
        return model(
            "model m(width = 4, depth = 1, vocab = 11) {\n"
            "    block layer { x = x + f(x) }\n"
            "    x = stack(E[vocab width](tokens), depth, [layer])\n"
            "    logits = x @ U[width -> vocab]\n"
            "}\n"
            f"fn f(x[width]) {{\n{body}\n}}\n"
        )

    return build
