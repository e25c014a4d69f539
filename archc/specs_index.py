"""Finding specs: from what a user names (`griffin:tiny`, `./my.arch#other:2b`) to a source, a model and a size."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

from archc.diagnostics import ArchError, Diagnostic, Source, closest, closest_file, error
from archc.elaborate import Library, Program, elaborate, load
from archc.passes.support import check_causal
from archc.resources import paths, read

Setting = int | float | Fraction
Settings = Mapping[str, Setting]

MODEL = "model.arch"
"""The spec of a folder that has its weights beside it."""

_SIZE = re.compile(r":([0-9A-Za-z][\w.\-]*)$")
_MODEL = re.compile(r"#([A-Za-z_]\w*)$")
_NUMBER = re.compile(r"[+-]?\d[\d_]*(\.\d+)?([eE][+-]?\d{1,3})?(/\d[\d_]*)?")


@dataclass(frozen=True)
class Target:
    """What a user named: a source, the folder its imports come from (None: no imports), a model and a size if given."""

    source: Source
    folder: Path | None
    model: str | None
    size: str | None


def find(spec: str | os.PathLike[str]) -> Target:
    """The target of a shipped name, a path or the text of a spec (any string with a `{`).

    Names and paths may end in `#model` and `:size`. A path may lead to a folder with a `model.arch`. Raises
    `ArchError`: E601 for an unknown name, E602 for a missing file, E603 for one that cannot be read as text, E617 for
    a name that is that of a shipped spec and of a folder with a model.
    """
    text = os.fspath(spec)
    if "{" in text:
        return Target(Source("<text>", text), None, None, None)
    name, size = _cut(text, _SIZE)
    name, model = _cut(name, _MODEL)
    if (Path(name) / MODEL).is_file():
        if name in shipped():
            help = f"write ./{name} for the folder; rename it to reach the spec"
            raise error("E617", f"'{name}' is a spec that comes with archc and a folder with a model", help=help)
        name = str(Path(name) / MODEL)
    if name.endswith(".arch") or "/" in name or os.sep in name:
        return Target(read_source(name), Path(name).parent, model, size)
    if name not in shipped():
        raise error("E601", f"no spec '{name}' comes with archc", help=_instead(name))
    shelf = Path(str(files("archc.specs")))
    return Target(Source(f"{name}.arch", read("specs", f"{name}.arch")), shelf, model, size)


def shipped() -> tuple[str, ...]:
    """The names of the specs that come with archc, sorted; the standard library is no spec."""
    return tuple(p.removesuffix(".arch") for p in paths("specs") if "/" not in p)


def library(target: Target) -> Library:
    """The parsed spec with all it imports."""
    return load(target.source, target.folder)


def program(spec: str | os.PathLike[str], settings: Settings | None = None) -> Program:
    """The checked program of a spec (see `find`), with parameters set to other values than its size gives them.

    Raises `ArchError` with everything that is wrong, a model that looks ahead included.
    """
    target = find(spec)
    given = {name: _exact(value) for name, value in (settings or {}).items()}
    found = elaborate(library(target), target.model, target.size, given)
    check_causal(found.graph)
    return found


def parse_settings(texts: Sequence[str]) -> dict[str, Fraction]:
    """The numbers in `name=value` texts. Raises `ArchError` E604 with one diagnostic for each that is none."""
    found: dict[str, Fraction] = {}
    problems: list[Diagnostic] = []
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name.isidentifier() or not _NUMBER.fullmatch(value) or value.endswith("/0"):
            problems.append(
                Diagnostic(
                    "E604", f"cannot read '--set {text}'", None, help="write --set name=number, such as width=512"
                )
            )
        elif name in found:
            problems.append(Diagnostic("E604", f"--set gives '{name}' twice", None))
        else:
            over, _, under = value.replace("_", "").partition("/")
            found[name] = Fraction(over) / Fraction(under or "1")
    if problems:
        raise ArchError(problems)
    return found


def _exact(value: Setting) -> Fraction:
    """A setting as its decimal text reads: 0.1 means a tenth, not the nearest binary number."""
    return Fraction(repr(value)) if isinstance(value, float) else Fraction(value)


def _cut(text: str, ending: re.Pattern[str]) -> tuple[str, str | None]:
    found = ending.search(text)
    return (text[: found.start()], found[1]) if found else (text, None)


def read_source(name: str) -> Source:
    """The text of a spec file. `ArchError` E602 if there is none, E603 if it cannot be read as text."""
    try:
        return Source(name, Path(name).read_bytes().decode("utf-8").removeprefix("\ufeff"))
    except FileNotFoundError:
        raise error("E602", f"no file '{name}'", help=closest_file(Path(name))) from None
    except UnicodeDecodeError as why:
        message = f"'{name}' is not UTF-8 text: byte {why.object[why.start]:#04x} at {why.start}"
        raise error("E603", message, help="save it as UTF-8") from None
    except OSError as why:
        raise error("E603", f"cannot read '{name}': {(why.strerror or str(why)).lower()}") from None


def _instead(name: str) -> str:
    near = closest(name, shipped())
    other = f"; a file is named by its path: ./{name}.arch" if Path(f"{name}.arch").exists() else ""
    return (near or "'archc specs' lists them") + other
