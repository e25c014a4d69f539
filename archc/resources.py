"""The text files that travel with the compiler: grammars, specs and templates, in a checkout and in a wheel."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Literal

Folder = Literal["grammars", "specs", "templates"]

_SUFFIX: dict[Folder, str] = {"grammars": ".lark", "specs": ".arch", "templates": ".j2"}


def read(folder: Folder, path: str) -> str:
    """The text of one file, `path` relative to its folder with forward slashes; FileNotFoundError if there is none."""
    return files(f"archc.{folder}").joinpath(*path.split("/")).read_text(encoding="utf-8")


def paths(folder: Folder, suffix: str = "") -> tuple[str, ...]:
    """The relative paths of every grammar, spec or template, sorted; what else lies in the folder is left out.

    With a suffix, those of the files that end so instead.
    """
    ending = suffix or _SUFFIX[folder]
    return tuple(sorted(p for p in _walk(files(f"archc.{folder}"), "") if p.endswith(ending)))


def _walk(folder: Traversable, prefix: str) -> Iterator[str]:
    for each in folder.iterdir():
        path = prefix + each.name
        if each.is_dir():
            yield from _walk(each, path + "/")
        else:
            yield path


def kernel(backend: str, name: str) -> str:
    """The text of one kernel file of a backend, copied verbatim into the output."""
    return files(f"archc.backends.{backend}.kernels").joinpath(name).read_text(encoding="utf-8")
