"""`archc fmt` over files: what would change, shown or written."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from archc.diagnostics import ArchError, Diagnostic
from archc.specs_index import read_source
from archc.text.format import format


def format_files(files: Sequence[Path], *, write: bool, diff: bool) -> tuple[Path, ...]:
    """The files whose layout is not canonical; each is named on the standard output.

    `write` replaces them, each by one rename; `diff` shows the change instead of the name. `ArchError` with the
    mistakes of all files that do not parse, after the others have been done.
    """
    changed: list[Path] = []
    problems: list[Diagnostic] = []
    for file in files:
        try:
            source = read_source(str(file))
            text = format(source)
        except ArchError as failed:
            problems += failed.diagnostics
            continue
        if text == source.text:
            continue
        changed.append(file)
        print(_difference(file, source.text, text) if diff else file)
        if write:
            _replace(file, text)
    if problems:
        raise ArchError(problems)
    return tuple(changed)


def _difference(file: Path, before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), f"{file}", f"{file} (formatted)", lineterm="")
    return "\n".join(lines)


def _replace(file: Path, text: str) -> None:
    """Writes a file by one rename, keeping its permissions; the file that a link leads to, not the link."""
    target = file.resolve()
    partial = target.with_name(f".{target.name}.archc-new")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.chmod(target.stat().st_mode)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
