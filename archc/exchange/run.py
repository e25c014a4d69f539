"""A folder with a model and its weights: `model.arch`, `weights.safetensors`, their config and tokenizer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from archc.diagnostics import ArchError, Diagnostic, error
from archc.emit.initial import stored_shapes
from archc.exchange.safetensors import Tensor, read_header
from archc.ir.graph import Graph
from archc.specs_index import MODEL

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TEXT = (
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
    "generation_config.json",
)
"""What may lie beside a model that says how text becomes tokens; it travels as it stands."""


def is_run(folder: Path) -> bool:
    """Whether a folder holds a model and weights."""
    return (folder / MODEL).is_file() and (folder / WEIGHTS).is_file()


def carry(folder: Path, into: Path) -> None:
    """Copies the files that say how text becomes tokens."""
    for name in TEXT:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, into / name)


def weights(folder: Path, graph: Graph) -> dict[str, Tensor]:
    """The weights of a model by name, exactly its own. `ArchError` E711 where the file does not fit the spec."""
    found = read_header(folder / WEIGHTS)
    wanted = stored_shapes(graph)
    problems = []
    for name in [*wanted, *(n for n in found if n not in wanted)]:
        have, want = (found[name].shape if name in found else None), wanted.get(name)
        if have != want:
            text = f"'{folder / WEIGHTS}' has '{name}' of shape {have}" if have is not None else f"it has no '{name}'"
            problems.append(Diagnostic("E711", f"{text}; the model has {want or 'none'}", None))
    if problems:
        raise ArchError(problems[:10])
    return {name: found[name] for name in wanted}


def fill(folder: Path, force: bool, names: tuple[str, ...], write: Callable[[Path], None]) -> None:
    """Makes `folder` hold the files that `write` leaves in a new one, all of them or none.

    `ArchError` E605 where the folder holds anything, unless `force`, which replaces files of these names and keeps
    all others; E606 where it is a file.
    """
    target = folder.resolve()
    if target.exists() and not target.is_dir():
        raise error("E606", f"'{folder}' is a file, not a folder")
    if not force and target.exists() and any(target.iterdir()):
        raise error("E605", f"'{folder}' is not empty", help="choose another folder, or add --force")
    staged = target.with_name(f".{target.name}.archc-new")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        write(staged)
        target.mkdir(exist_ok=True)
        for name in names:
            if (staged / name).exists():
                os.replace(staged / name, target / name)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
