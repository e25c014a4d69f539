"""From a spec and weights in our names to a config.json and safetensors that another library reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, product
from pathlib import Path
from typing import Any

from archc.diagnostics import ArchError, Diagnostic, error
from archc.exchange.checkpoint import WHOLE
from archc.exchange.expressions import is_expression
from archc.exchange.family import ANY, Family, Head, Real, Variant, families
from archc.exchange.fields import size, variants, with_defaults
from archc.exchange.rows import Move
from archc.exchange.run import CONFIG, TEXT, WEIGHTS, carry, fill, is_run, weights
from archc.exchange.safetensors import Bits, Element, Tensor, Writer
from archc.exchange.spec_text import period, spec_text
from archc.ir.graph import Graph, Layer
from archc.ir.show import as_json
from archc.specs_index import MODEL, find, library, program


@dataclass(frozen=True)
class Found:
    """What a model is in another library: the data, the head it has there, and its fields."""

    family: Family
    head: Head
    fields: Mapping[str, Any]


def export_run(run: Path, out: Path, *, force: bool = False) -> None:
    """Writes config.json and model.safetensors of a run into `out`, and the tokenizer that it came with.

    The config that a run was imported with gives the fields that change nothing. `ArchError` E713 where no model of the
    library computes what the spec says, E714 for a folder without model and weights, E711, and those of `fill`.
    """
    if not is_run(run):
        raise error("E714", f"'{run}' has no {MODEL} and {WEIGHTS}")
    checked = program(str(run / MODEL))
    found = find_family(checked.graph, {name: Fraction(n.value) for name, n in checked.settings.items()})
    plan = found.family.moves(checked.graph, found.head)
    have = weights(run, checked.graph)
    config = config_text(found, run / CONFIG, have)

    def write(into: Path) -> None:
        _convert(plan, have, into / WHOLE)
        (into / CONFIG).write_text(config, encoding="utf-8")
        carry(run, into)

    fill(out, force, (WHOLE, CONFIG, *TEXT), write)


def find_family(graph: Graph, settings: Mapping[str, Fraction]) -> Found:
    """The family whose spec, at the sizes of the model, is this very graph. `ArchError` E713 if there is none."""
    problems: list[Diagnostic] = []
    named = sorted(families(), key=lambda family: family.name != graph.name)  # two may be one model at some sizes
    for family in named:
        if not settings.keys() <= _parameters(family) or not _has_rows(graph, family):
            continue
        for head, chosen in product(family.heads, _subsets(family.variants)):
            direct = {name: text for name, text in family.sizes.items() if name in settings}
            if not direct or not _same(graph, family, settings, (*chosen, head.text)):
                continue
            fields = _fields(family, chosen, settings, graph)
            wrong = [n for n, text in direct.items() if Fraction(size(text, fields)) != settings[n]]
            if not wrong and variants(family, fields) == chosen:
                return Found(family, head, fields)
            problems += [_fixed(family, name, fields, settings[name]) for name in wrong]
    if problems:
        raise ArchError(problems[:1])
    help = "archc exports models that are a spec of its own at other sizes; equations may not differ"
    raise error("E713", f"no model of transformers is known to compute '{graph.name}'", help=help)


def _parameters(family: Family) -> frozenset[str]:
    """The parameters of the shipped spec, and those that only a variant has."""
    return frozenset(family.sizes) | {p.name.text for p in library(find(family.spec)).model(None).params}


def _has_rows(graph: Graph, family: Family) -> bool:
    """Whether there is a row for every weight; a look at names, before specs are made and compared."""
    rows = {part.ours for row in family.outer for part in row.parts}
    rows |= {f"layers.#.{part.ours}" for row in family.layers for part in row.parts}
    return {re.sub(r"^layers\.\d+", "layers.#", name) for name in graph.named_weights()} <= rows


def _subsets(given: tuple[Variant, ...]) -> Iterator[tuple[Variant, ...]]:
    """All that can be together: no two say different things of a field."""
    for n in range(len(given) + 1):
        for chosen in combinations(given, n):
            said = [(name, value) for variant in chosen for name, value in variant.when.items()]
            if all(a != b or x == y for (a, x), (b, y) in combinations(said, 2)):
                yield chosen


def _same(graph: Graph, family: Family, settings: Mapping[str, Fraction], chosen: tuple[Variant, ...]) -> bool:
    """Whether the shipped spec at these sizes and in these variants computes what the graph does."""
    try:
        text = spec_text(family.spec, settings, chosen, _blocks(graph) if family.blocks else None)
        other = program(text).graph
    except ArchError:
        return False
    return equations(other) == equations(graph)


def equations(graph: Graph) -> dict[str, Any]:
    """A graph as data, without the names that its author gave to values and blocks."""
    data = {key: value for key, value in as_json(graph).items() if key != "name"}
    for region in data["regions"]:
        del region["name"]
        for value in region["values"]:
            del value["label"]
            for layer in value.get("layers", ()):
                del layer["block"]
    return data


def _blocks(graph: Graph) -> tuple[str, ...]:
    """The block of every layer."""
    stacks = [v for v in graph.main.values if v.op == "stack"]
    layers: tuple[Layer, ...] = tuple(layer for v in stacks for layer in v.attrs["layers"])
    return tuple(layer.block for layer in layers)


def _fields(
    family: Family, chosen: tuple[Variant, ...], settings: Mapping[str, Fraction], graph: Graph
) -> dict[str, Any]:
    """Every field of the config, from the parameters that one gives directly, and from what must be."""
    fields: dict[str, Any] = {
        field: int(value) if value.denominator == 1 else value
        for value, field in ((settings[name], field) for name, field in family.sizes.items() if name in settings)
        if not is_expression(field)
    }
    if family.blocks is not None:
        kinds = {block: kind for kind, block in reversed(tuple(family.blocks.kinds.items()))}
        layers = [kinds[block] for block in _blocks(graph)]
        fields[family.blocks.field] = list(period(layers)) if family.blocks.repeats else layers
    fields.update({name: value for name, value in family.must.items() if not is_expression(value)})
    said = [each for variant in chosen for each in variant.when.items()]
    fields.update({name: value for name, value in said if value != ANY})
    computed = {name: value for name, value in family.must.items() if is_expression(value)}
    whole = with_defaults(fields, family)
    for name, text in computed.items():
        whole[name] = size(text, whole)
    return whole


def _fixed(family: Family, name: str, fields: Mapping[str, Any], value: Fraction) -> Diagnostic:
    there = float(size(family.sizes[name], fields))
    what = f"'{name}' is {float(value)!r}; transformers computes {there!r} there"
    return Diagnostic("E713", what, None, help=f"it is {family.sizes[name].removeprefix('= ')}")


# --- writing -----------------------------------------------------------------------------------------


def config_text(found: Found, before: Path, have: Mapping[str, Tensor]) -> str:
    """The config.json: the fields, over those that change nothing of the config before."""
    family = found.family
    out: dict[str, Any] = {"architectures": [found.head.architecture], "model_type": family.model_type}
    given = json.loads(before.read_text("utf-8")) if before.is_file() else {}
    out |= {name: value for name, value in given.items() if name in family.free}
    if not given:
        kinds = {tensor.element for tensor in have.values()}
        out["dtype"] = _DTYPES[min(kinds, key=list(_DTYPES).index)]
    for name, value in found.fields.items():
        usual = name in family.common and value == family.fields[name] and name not in given
        if usual or name in out:
            continue
        group, dot, inner = name.partition(".")
        written = _written(value, family.fields[name])
        if name in family.each_layer:
            written = [written] * found.fields[family.sizes["depth"]]
        if dot:
            out.setdefault(group, {})[inner] = written
        else:
            out[name] = written
    return json.dumps(out, indent=2, sort_keys=True) + "\n"


_DTYPES: Mapping[Element, str] = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def _written(value: Any, default: Any) -> Any:
    """A value as JSON has it; a number with a point where the default has one."""
    match value:
        case list():
            return [_written(each, default[0] if isinstance(default, list) and default else None) for each in value]
        case float():
            return {"__float__": "Infinity" if value > 0 else "-Infinity"}
        case bool():
            return value
        case int() | Fraction() if isinstance(default, Real) or Fraction(value).denominator != 1:
            return float(value)
        case Fraction():
            return int(value)
    return value


def _convert(plan: tuple[Move, ...], have: Mapping[str, Tensor], file: Path) -> None:
    """One pass over their tensors; of each, only its own parts are in memory."""
    elements: dict[str, Element] = {}
    for move in plan:
        kinds = {have[piece.ours].element for piece in move.pieces}
        if len(kinds) > 1:
            parts = ", ".join(f"'{piece.ours}'" for piece in move.pieces)
            raise error("E711", f"{parts} are one tensor '{move.theirs}', and have elements of different kinds")
        elements[move.theirs] = kinds.pop()
    out = Writer(file, {move.theirs: (elements[move.theirs], move.shape) for move in plan})

    def bits(name: str) -> Bits:
        return have[name].read()

    for move in plan:
        out.place(move.theirs)[...] = move.to_theirs(bits)
