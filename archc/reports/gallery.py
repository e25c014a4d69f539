"""The specs that come with archc as one page of Markdown: what each is, how large, what it costs, how it is written."""

from __future__ import annotations

import re
from collections.abc import Iterator

from archc.diagnostics import Source
from archc.elaborate import Library, Program, elaborate
from archc.ir.draw import mermaid
from archc.passes.caches import caches
from archc.passes.flops import flops
from archc.passes.params import params
from archc.passes.workload import Workload
from archc.reports.layers import layers, pattern
from archc.reports.units import in_bytes, large
from archc.specs_index import find, library, shipped
from archc.text import ast

TIME = 2048
CONTEXTS = (1024, 8192, 65_536)
MOST = 4
"""Kinds of layers that are told apart."""
INTRODUCTION = f"""# Gallery

Every spec that comes with archc, as it is written, with the sizes of its paper or release. This page is what
`archc specs --gallery` prints.

FLOPs are those of the forward pass, for a token of a sequence of {TIME:,} (or as many as there are positions for); a
multiply-add is two. The state of a decoder is that of one sequence in bfloat16, running states in single precision.
Pictures show the size `tiny`.
"""
CITATION = re.compile(r" \((?=[^)]*(?:\b(?:19|20)\d\d\b|arXiv))")


def gallery() -> str:
    """The page: an index, then a section a spec."""
    sections = [_section(name) for name in shipped()]
    index = "\n".join(f"* [{name}](#{name}): {_sentence(_model(name).doc)}" for name in shipped())
    return "\n".join([INTRODUCTION, index, "", *sections])


def _section(name: str) -> str:
    """One spec: its documentation, sizes, text and picture."""
    target = find(name)
    specs = library(target)
    model = _model(name)
    smallest = elaborate(specs, size="tiny")
    parts = [
        f"## {name}",
        _paragraph(model.doc),
        "\n".join(_sizes(specs)),
        f"```arch\n{_text(target.source, model)}\n```",
        f"<details><summary>Picture</summary>\n\n```mermaid\n{mermaid(smallest.graph).strip()}\n```\n\n</details>\n",
    ]
    return "\n\n".join(parts)


def _model(name: str) -> ast.ModelDef:
    """The declaration of the model that a file is named after."""
    return next(model for model in library(find(name)).models if model.name.text == name)


def _paragraph(doc: str) -> str:
    return " ".join(doc.split())


def _sentence(doc: str) -> str:
    """What a model is, without where it comes from."""
    return CITATION.split(_paragraph(doc))[0].partition(". ")[0].rstrip(".")


def _text(source: Source, model: ast.ModelDef) -> str:
    """The spec without the documentation of its model."""
    lines = source.text.rstrip().split("\n")
    start = source.text[: model.span.start].count("\n")
    first = start
    while first and lines[first - 1].startswith("##"):
        first -= 1
    return "\n".join([*lines[:first], *lines[start:]])


# --- sizes -------------------------------------------------------------------------------------------


def _sizes(specs: Library) -> Iterator[str]:
    """A table of the published sizes; of the defaults, where a spec names no size but tiny."""
    default = elaborate(specs)
    decodes = default.graph.kind == "model"
    states = [f"state after {context:,}" for context in CONTEXTS] if decodes else []
    heads = ["size", "layers", "parameters", "FLOPs per token", *states]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * 2}{'--:|' * (len(heads) - 2)}"
    names = [size for size in default.sizes if size != "tiny"]
    for found in [elaborate(specs, size=size) for size in names] or [default]:
        yield f"| {' | '.join(_row(found, decodes))} |"


def _layers(order: tuple[str, ...]) -> str:
    """The pattern of layers; without numbers where every layer is of a kind of its own."""
    return pattern(order if len(set(order)) <= MOST else [re.sub(r" \d+$", "", kind) for kind in order])


def _row(found: Program, decodes: bool) -> Iterator[str]:
    graph = found.graph
    yield found.size or "as it stands"
    yield _layers(layers(graph).order)
    yield f"{params(graph).total:,}"
    length = found.settings.get("length")
    time = TIME if length is None else min(TIME, int(length.value))
    yield large(flops(graph, Workload(time=time, mode="forward")).per_token.total)
    if decodes:
        kept = caches(graph)
        for context in CONTEXTS:
            yield in_bytes(sum(int(cache.bytes(context)) for cache in kept))
