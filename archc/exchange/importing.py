"""From a config.json, and the safetensors beside it, to a spec, weights in our names, and the tokenizer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from archc.diagnostics import Source, error
from archc.emit.initial import stored_shapes
from archc.exchange.checkpoint import has_tensors, matched, placed, tensors
from archc.exchange.fields import Config, read_config
from archc.exchange.rows import Move
from archc.exchange.run import CONFIG, TEXT, WEIGHTS, carry, fill
from archc.exchange.safetensors import Tensor, Writer
from archc.specs_index import MODEL, program


@dataclass(frozen=True)
class Imported:
    """A spec made from a config: its text, what the config says, the config's own text."""

    said: Config
    text: str
    config: str


def read_spec(path: Path) -> Imported:
    """The spec of a config.json, or of a folder that has one; the tensors of a folder tell which head there is.

    `ArchError` E701 to E707, E711 for an index that cannot be read, E712, or what sizes break.
    """
    file = path / CONFIG if path.is_dir() else path
    if not file.is_file():
        raise error("E701", f"no config '{file}'")
    try:
        source = Source(str(file), file.read_bytes().decode("utf-8"))
    except UnicodeDecodeError:
        raise error("E702", f"'{file}' is not UTF-8 text") from None
    said = read_config(source)
    if path.is_dir() and len(said.family.heads) > 1 and has_tensors(path):
        said = _with_head(said, tensors(path))
    program(said.text)
    return Imported(said, said.text, source.text)


def _with_head(said: Config, found: Collection[str]) -> Config:
    """With the first head that the tensors are all there for; as it is where they are for none."""
    for head in said.family.heads:
        other = replace(said, head=head)
        wanted = {move.theirs for move in said.family.moves(program(other.text).graph, head)}
        if wanted <= {placed(name, wanted, said.family) for name in found}:
            return other
    return said


def import_run(folder: Path, out: Path, *, force: bool = False) -> Imported:
    """Writes a model, its weights and its tokenizer, where there is one, into `out`, tensor by tensor.

    `ArchError` as of `read_spec` and `fill`, E708 to E711 for weights that do not fit.
    """
    if not folder.is_dir():
        raise error("E701", f"'{folder}' is no folder; weights are read from one", help="or write a spec: -o NAME.arch")
    imported = read_spec(folder)
    family, head = imported.said.family, imported.said.head
    graph = program(imported.text).graph
    plan = family.moves(graph, head)
    found = matched(tensors(folder), plan, family)

    def write(into: Path) -> None:
        convert(plan, found, stored_shapes(graph), into / WEIGHTS)
        (into / CONFIG).write_text(imported.config, encoding="utf-8")
        (into / MODEL).write_text(imported.text, encoding="utf-8")
        carry(folder, into)

    fill(out, force, (WEIGHTS, CONFIG, MODEL, *TEXT), write)
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
