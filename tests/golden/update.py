"""Writes the golden files anew: `python -m tests.golden.update`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import archc

HERE = Path(__file__).parent
GOLDEN = ("griffin", "mamba2", "dcformer")
BACKENDS = ("torch", "flax")


@cache
def emitted(name: str, backend: str) -> dict[str, str]:
    """The files of a shipped spec at its tiny size."""
    return {a.path: a.text for a in archc.compile(f"{name}:tiny", backend=backend)}  # type: ignore[arg-type]


if __name__ == "__main__":
    for name in GOLDEN:
        for backend in BACKENDS:
            (HERE / f"{name}_{backend}.py.txt").write_text(emitted(name, backend)["model.py"], encoding="utf-8")
