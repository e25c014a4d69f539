"""Reads a fixture: a spec, and in its first line how it is asked for."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from archc.diagnostics import Source
from archc.elaborate import Program, elaborate, load

ERRORS = Path(__file__).parent / "errors"
CASES = sorted(ERRORS.glob("*.arch"))


def run(case: Path) -> Program:
    """Elaborates a fixture. `# archc: size=tiny set heads=3 model=m text` in the first line says how."""
    text = case.read_text(encoding="utf-8")
    first = text.partition("\n")[0]
    words = first.removeprefix("# archc:").split() if first.startswith("# archc:") else []
    asked = dict(w.split("=") for w in words if "=" in w)
    settings = {n: Fraction(v) for n, v in asked.items() if n not in ("size", "model")}
    library = load(Source(case.name, text), None if "text" in words else case.parent)
    return elaborate(library, asked.get("model"), asked.get("size"), settings)
