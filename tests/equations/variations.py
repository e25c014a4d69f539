"""Variations of shipped specs: one line, written otherwise."""

from __future__ import annotations

from fractions import Fraction

from archc.diagnostics import Source
from archc.elaborate import Program, elaborate, load
from archc.resources import read

DYNAMIC = "dc_attention(rms_norm(x), heads, mask)"
BILINEAR = ("ssm(layer_norm(x), state)", "ssm(layer_norm(x), state, discretise = bilinear)")


def varied(name: str, line: str, other: str, **settings: int) -> Program:
    """The tiny program of a spec with one line changed."""
    text = read("specs", f"{name}.arch")
    assert text.count(line) == 1
    exact = {setting: Fraction(value) for setting, value in settings.items()}
    return elaborate(load(Source(f"{name}.arch", text.replace(line, other)), None), None, "tiny", exact)
