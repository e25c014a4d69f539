"""Stacks written as letters, one a layer (`"M-M*-"`), as Megatron and Nemotron-H write theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction

from archc.diagnostics import ArchError, Diagnostic, Source, Span, error
from archc.exchange.family import Family, families
from archc.exchange.spec_text import spec_text

BETWEEN = "| "
"""What may stand between letters and says nothing about layers."""


def pattern_spec(pattern: str) -> str:
    """The spec of a pattern: that of the family with letters, its stack as the pattern says.

    Raises `ArchError` E715 with every letter that is none, or for a pattern without layers.
    """
    family = next(f for f in families() if f.blocks is not None and f.blocks.letters)
    assert family.blocks is not None
    found = [family.blocks.kinds[kind] for kind in kinds(Span(Source("<pattern>", pattern), 0, len(pattern)), family)]
    return spec_text(family.spec, {"depth": Fraction(len(found))}, (), found)


def kinds(pattern: Span, family: Family) -> tuple[str, ...]:
    """The kinds of layers that the letters of a text mean. Raises `ArchError` E715."""
    assert family.blocks is not None
    letters = family.blocks.letters
    known = ", ".join(f"{letter} {family.blocks.kinds[kind]}" for letter, kind in letters.items())
    problems = [Diagnostic("E715", text, span, help=f"letters: {known}") for text, span in _unknown(pattern, letters)]
    if problems:
        raise ArchError(problems)
    found = tuple(letters[letter] for letter in pattern.text if letter in letters)
    if not found:
        raise error("E715", "a pattern without layers", pattern, help=f"letters: {known}")
    return found


def _unknown(pattern: Span, letters: Mapping[str, str]) -> Iterator[tuple[str, Span]]:
    for i, letter in enumerate(pattern.text, pattern.start):
        if letter not in letters and letter not in BETWEEN:
            near = f"; did you mean '{letter.swapcase()}'?" if letter.swapcase() in letters else ""
            yield f"no layer is written '{letter}'{near}", Span(pattern.source, i, i + 1)
