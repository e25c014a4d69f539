"""What a compilation produces: texts with paths, nothing written yet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Artifact:
    """One file of the output: its path below the folder, with forward slashes, and its whole text."""

    path: str
    text: str
