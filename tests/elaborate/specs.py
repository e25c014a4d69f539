"""Short specs in a test, and what their graphs look like."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from archc.diagnostics import ArchError, Diagnostic, Source
from archc.elaborate import Program, elaborate, load
from archc.ir.graph import Value, Weight, regions_of


def program(text: str, size: str | None = None, settings: Mapping[str, Fraction] | None = None) -> Program:
    """The program of a text."""
    return elaborate(load(Source("spec.arch", text), None), size=size, settings=settings)


def model(body: str, params: str = "", more: str = "") -> Program:
    """The program of a model of width 8 over 16 tokens with these lines in it."""
    more_params = f", {params}" if params else ""
    return program(
        f"model m(width = 8, vocab = 16{more_params}) {{\n"
        f"x = E[vocab width](tokens)\n{body}\nlogits = x @ U[width -> vocab]\n}}\n{more}\n"
    )


def layered(block: str, stack: str, params: str = "") -> Program:
    """The program of a model with one block `layer` and a stack."""
    return model(f"block {block}\nx = {stack}", params)


def weights(found: Program) -> dict[str, Weight]:
    """The weights of a program but for embedding and head."""
    return {n: w for n, w in found.graph.named_weights().items() if n not in ("E", "U")}


def shapes(found: Program) -> dict[str, dict[str, int]]:
    """The axes of those weights."""
    return {name: weight.type.sizes for name, weight in weights(found).items()}


def values(found: Program) -> list[Value]:
    """Every value of every region, in order."""
    out: list[Value] = []
    for region, _ in found.graph.regions():
        out += region.values
        for value in region.values:
            out += [v for r in regions_of(value) if value.op == "loop" for v in r.values]
    return out


def label(found: Program, name: str) -> Value:
    """The last value with a name."""
    return [v for v in values(found) if v.label == name][-1]


def mistakes(text: str) -> tuple[Diagnostic, ...]:
    """What is wrong with a text."""
    try:
        program(text)
    except ArchError as found:
        return found.diagnostics
    return ()
