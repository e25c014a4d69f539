"""Writing artifacts into a folder whole or not at all, without touching what archc did not write.

The folder is built beside the target, flushed to the disk and put in its place by renaming. A manifest, `.archc`, lists
the files and their sha256, so that the next compile knows what it may replace.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from archc.diagnostics import error
from archc.emit.artifact import Artifact

MANIFEST = ".archc"
_CACHES = frozenset({"__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis"})
_HEADER = "# The files that archc wrote here, and their sha256; those that no longer match are yours.\n"
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def write(artifacts: Sequence[Artifact], folder: Path, *, force: bool = False) -> None:
    """Makes `folder` hold the artifacts; whatever fails or interrupts, it holds all old files or all new ones.

    If every artifact is there already, nothing is written. Files that archc wrote before, unchanged since, are replaced
    or, if no longer made, removed. With files of other origin, or edited ones, in the folder: `ArchError` E605 unless
    `force`, which overwrites those in the way and keeps all others. E606 where the folder cannot be put in place.
    OSError (full disk, no permission) passes through.
    """
    target = folder.resolve()
    texts = {a.path: a.text.encode("utf-8") for a in artifacts}
    recover(target)
    if holds(artifacts, target):
        return
    if target.exists() and not target.is_dir():
        raise error("E606", f"'{folder}' is a file, not a folder")
    replaceable = _unedited(target)
    theirs = [path for path in _files(target) if path not in replaceable]
    if theirs and not force:
        raise error(
            "E605", _foreign(folder, theirs, read_manifest(target)), help="choose another folder, or add --force"
        )
    _require_replaceable(target, folder, texts, replaceable)
    staged = _sibling(target, "new")
    try:
        _stage(texts, staged)
        _put_in_place(staged, target, [*replaceable, *texts])
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def holds(artifacts: Sequence[Artifact], folder: Path) -> bool:
    """Whether the folder is what `write` would leave: every artifact with its very bytes, nothing left of before."""
    expected = {a.path: _digest(a.text.encode("utf-8")) for a in artifacts}
    return read_manifest(folder) == expected and len(_unedited(folder)) == len(expected)


def read_manifest(folder: Path) -> dict[str, str]:
    """Path -> sha256 of what archc wrote into a folder; empty if there is no manifest."""
    try:
        text = (folder / MANIFEST).read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found = (_LINE.fullmatch(line) for line in text.splitlines())
    return {line[2]: line[1] for line in found if line is not None}


def recover(target: Path) -> None:
    """Finishes what a killed `write` left: the old folder goes back, or its foreign files follow to the new one."""
    old = _sibling(target, "old")
    if not old.exists():
        return
    if target.exists():
        _remove(old, _unedited(old))
        _carry(old, target)
    else:
        old.rename(target)


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def _sibling(target: Path, role: str) -> Path:
    return target.with_name(f".{target.name}.archc-{role}")


def _files(folder: Path) -> Iterator[str]:
    """Relative paths of all files and links in a folder but the manifest and caches of tools, sorted."""
    found = []
    for here, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(here) / name).is_symlink()]
        folders[:] = [name for name in folders if name not in _CACHES]
        found += [(Path(here) / name).relative_to(folder).as_posix() for name in (*names, *links)]
    return (path for path in sorted(found) if path != MANIFEST)


def _unedited(folder: Path) -> list[str]:
    """What archc wrote and nobody changed since."""
    return [
        path
        for path, digest in read_manifest(folder).items()
        if (folder / path).is_file() and _digest((folder / path).read_bytes()) == digest
    ]


def _foreign(folder: Path, theirs: Sequence[str], manifest: Mapping[str, str]) -> str:
    """One sentence on why a folder is left alone."""
    edited = [path for path in theirs if path in manifest]
    others = [path for path in theirs if path not in manifest]
    parts = [f"edited since archc wrote them: {_some(edited)}"] if edited else []
    parts += [f"not written by archc: {_some(others)}"] if others else []
    return f"'{folder}' has files {'; and files '.join(parts)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _require_replaceable(target: Path, folder: Path, texts: Mapping[str, bytes], replaceable: Sequence[str]) -> None:
    """The folder can be renamed away without pulling it from under anybody's feet."""
    if target.exists() and Path.cwd().resolve().is_relative_to(target):
        raise error("E606", f"'{folder}' cannot be replaced from inside of it", help="run archc from another folder")
    for path in texts:
        if (target / path).is_dir() and not (target / path).is_symlink():
            raise error("E606", f"'{folder / path}' is a folder, and archc would write a file of that name")
        for above in Path(path).parents:
            if (target / above).is_file() and above.as_posix() not in replaceable:
                raise error("E606", f"'{folder / above}' is a file, and archc would write a folder of that name")


def _stage(texts: Mapping[str, bytes], staged: Path) -> None:
    """The complete new folder, on the disk."""
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    lines = "".join(f"{_digest(content)}  {path}\n" for path, content in sorted(texts.items()))
    for path, content in {**texts, MANIFEST: (_HEADER + lines).encode()}.items():
        file = staged / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    for here, _, _ in os.walk(staged):
        _flush(Path(here))


def _flush(folder: Path) -> None:
    """Waits until the entries of a folder are on the disk, where the system can say so."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put_in_place(staged: Path, target: Path, ours: Sequence[str]) -> None:
    """Swaps the folders by two renames; what stays of the old one are the files of others, which then move over."""
    if not target.exists():
        staged.rename(target)
        _flush(target.parent)
        return
    old = _sibling(target, "old")
    target.rename(old)
    try:
        staged.rename(target)
    except BaseException:
        old.rename(target)
        raise
    _flush(target.parent)
    _remove(old, ours)
    _carry(old, target)


def _remove(folder: Path, files: Sequence[str]) -> None:
    """Removes files that archc wrote or replaces, the byte code made of them, and the folders that this empties."""
    parents = {folder / path: None for file in files for path in Path(file).parents}
    for file in files:
        (folder / file).unlink(missing_ok=True)
    for parent in sorted(parents, reverse=True):
        shutil.rmtree(parent / "__pycache__", ignore_errors=True)
        if parent != folder and parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def _carry(old: Path, new: Path) -> None:
    """Moves what a replaced folder still holds into the new one, where nothing of that name stands, and removes it."""
    for entry in sorted(old.iterdir()):
        place = new / entry.name
        if not (place.exists() or place.is_symlink()):
            entry.rename(place)
        elif entry.is_dir() and not entry.is_symlink() and place.is_dir():
            _carry(entry, place)
        else:
            entry.unlink()
    old.rmdir()
