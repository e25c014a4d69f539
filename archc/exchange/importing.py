"""From a config.json, and the safetensors beside it, to a spec and weights in our names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from archc.diagnostics import Source, error
from archc.emit.initial import stored_shapes
from archc.exchange.checkpoint import matched, tensors
from archc.exchange.family import Family
from archc.exchange.fields import read_config
from archc.exchange.rows import Move, moves
from archc.exchange.run import CONFIG, WEIGHTS, fill
from archc.exchange.safetensors import Tensor, Writer
from archc.exchange.spec_text import spec_text
from archc.specs_index import MODEL, program


@dataclass(frozen=True)
class Imported:
    """A spec made from a config: its text, the data it was made by, the config's own text."""

    family: Family
    text: str
    config: str


def read_spec(path: Path) -> Imported:
    """The spec of a config.json, or of a folder that has one. `ArchError` E701 to E707, E712, or what sizes break."""
    file = path / CONFIG if path.is_dir() else path
    if not file.is_file():
        raise error("E701", f"no config '{file}'")
    try:
        source = Source(str(file), file.read_bytes().decode("utf-8"))
    except UnicodeDecodeError:
        raise error("E702", f"'{file}' is not UTF-8 text") from None
    config = read_config(source)
    text = spec_text(config.family.name, config.sizes, config.variants, config.blocks)
    program(text)
    return Imported(config.family, text, source.text)


def import_run(folder: Path, out: Path, *, force: bool = False) -> Imported:
    """Writes a model and its weights into `out`, tensor by tensor.

    `ArchError` as of `read_spec` and `fill`, E708 to E711 for weights that do not fit.
    """
    if not folder.is_dir():
        raise error("E701", f"'{folder}' is no folder; weights are read from one", help="or write a spec: -o NAME.arch")
    imported = read_spec(folder)
    graph = program(imported.text).graph
    plan = moves(graph, imported.family.outer, imported.family.layers, imported.family.prefix)
    found = matched(tensors(folder), plan, imported.family)

    def write(into: Path) -> None:
        convert(plan, found, stored_shapes(graph), into / WEIGHTS)
        (into / CONFIG).write_text(imported.config, encoding="utf-8")
        (into / MODEL).write_text(imported.text, encoding="utf-8")

    fill(out, force, (WEIGHTS, CONFIG, MODEL), write)
    return imported


def convert(
    plan: tuple[Move, ...], found: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], file: Path
) -> None:
    """One pass over their tensors; of each, only what is being moved is in memory."""
    elements = {piece.ours: found[move.theirs].element for move in plan for piece in move.pieces}
    out = Writer(file, {name: (elements[name], shape) for name, shape in shapes.items()})
    for move in plan:
        for piece, bits in move.to_ours(found[move.theirs].read()):
            piece.of(out.place(piece.ours))[...] = bits
