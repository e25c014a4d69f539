"""Tensors of another library's folder against the moves: none is left over, none missing, each has its shape."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path

import numpy as np

from archc.diagnostics import ArchError, Diagnostic, closest, error
from archc.exchange.family import Family
from archc.exchange.rows import Move
from archc.exchange.safetensors import Tensor, read_header

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"


def tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder by name, in one file or in shards. `ArchError` E711 where they are missing or damaged."""
    if (folder / INDEX).is_file():
        return _sharded(folder)
    if (folder / WHOLE).is_file():
        return read_header(folder / WHOLE)
    others = sorted(p.name for p in folder.glob("*.bin"))
    help = f"'{others[0]}' is pickled; transformers saves it anew as safetensors" if others else ""
    raise error("E711", f"'{folder}' has neither {WHOLE} nor {INDEX}", help=help)


def has_tensors(folder: Path) -> bool:
    """Whether a folder has weights that can be read."""
    return (folder / INDEX).is_file() or (folder / WHOLE).is_file()


def _sharded(folder: Path) -> dict[str, Tensor]:
    try:
        places: Mapping[str, str] = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"]
    except (ValueError, KeyError):
        raise error("E711", f"'{folder / INDEX}' is no index of shards") from None
    found: dict[str, Tensor] = {}
    problems: list[Diagnostic] = []
    for shard in sorted(set(places.values())):
        if not (folder / shard).is_file():
            problems.append(Diagnostic("E711", f"the index names '{shard}', which is not in '{folder}'", None))
            continue
        header = read_header(folder / shard)
        lost = [name for name, place in places.items() if place == shard and name not in header]
        if lost:
            problems.append(Diagnostic("E711", f"'{shard}' lacks {_some(lost)} of the index", None))
        found.update(header)
    if problems:
        raise ArchError(problems)
    return found


def matched(found: Mapping[str, Tensor], moves: Sequence[Move], family: Family) -> dict[str, Tensor]:
    """The tensor of every move, by their present names. `ArchError` with everything that does not fit, E708 to E710."""
    wanted = {move.theirs: move for move in moves}
    named: dict[str, Tensor] = {}
    problems: list[Diagnostic] = []
    rest: list[str] = []
    for written, tensor in found.items():
        name = placed(written, wanted, family)
        if name is not None:
            named[name] = tensor
        elif not _ignored(written, family):
            rest.append(written)
    repeats = [n for n in rest if _repeated(present(n, family), found[n], named, family)]
    left = [n for n in rest if n not in repeats]
    missing = [name for name in wanted if name not in named]
    if missing:
        near = closest(missing[0], left)
        problems.append(Diagnostic("E708", f"the weights lack {_some(missing)}", None, help=near))
    if left:
        problems.append(Diagnostic("E709", f"nothing in the spec takes {_some(left)}", None))
    for name, tensor in named.items():
        shape = wanted[name].shape
        if tensor.shape != shape:
            what = f"'{name}' is {_shape(tensor.shape)}; by the config it is {_shape(shape)}"
            problems.append(Diagnostic("E710", what, None))
    if problems:
        raise ArchError(problems)
    return named


def present(name: str, family: Family) -> str:
    """The name of a tensor as the library writes it today."""
    for old, new in family.aliases.items():
        if old.endswith(".") and name.startswith(old):
            return new + name.removeprefix(old)
        if name == old or name.endswith(f".{old}"):
            return name.removesuffix(old) + new
    return name


def placed(written: str, wanted: Container[str], family: Family) -> str | None:
    """The one of the wanted names that a tensor goes by, with or without the beginning that heads give to a body."""
    name = present(written, family)
    names = (name, family.base + name, name.removeprefix(family.base))
    return next((each for each in names if each in wanted), None)


def _ignored(name: str, family: Family) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in family.ignored)


def _repeated(name: str, tensor: Tensor, named: Mapping[str, Tensor], family: Family) -> bool:
    """Whether a tensor repeats another, as one that is tied may; element for element, a block at a time."""
    source = named.get(family.copies.get(name, ""))
    if source is None or (source.shape, source.element) != (tensor.shape, tensor.element):
        return False
    rows = max(1, (1 << 24) // max(1, prod(tensor.shape[1:])))
    a, b = tensor.read(), source.read()
    return all(np.array_equal(a[i : i + rows], b[i : i + rows]) for i in range(0, tensor.shape[0], rows))


def _some(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
