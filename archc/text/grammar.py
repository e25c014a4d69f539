"""The parser that Lark makes from `grammars/arch.lark`, with its tables kept between runs."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from lark import Lark

from archc import resources


@cache
def parser() -> Lark:
    """The parser, from the tables in the user's cache folder where they fit this grammar, this Lark and this Python.

    Building the tables takes some tenths of a second, reading them some milliseconds. Lark keeps a digest of all three
    beside the tables, so they cannot go stale; without a folder to write to they are built anew.
    """
    folder = _cache_folder()
    return Lark(
        resources.read("grammars", "arch.lark"),
        parser="lalr",
        propagate_positions=True,
        cache=str(folder / "arch.lark.tables") if folder else False,
    )


def _cache_folder() -> Path | None:
    """Where this user's programs keep what they can make again, or None if nothing can be written there."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "archc"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder
