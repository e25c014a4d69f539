"""Stacks written as letters, one a layer (`"M-M*-"`), as Megatron and Nemotron-H write theirs."""

from __future__ import annotations

from fractions import Fraction

from archc.diagnostics import ArchError, Diagnostic, Source, Span, error
from archc.exchange.family import Family, families
from archc.exchange.spec_text import spec_text

_PARTS = "| "
"""What may stand between letters and says nothing about layers."""


def pattern_spec(pattern: str) -> str:
    """The spec of a pattern: that of the family with letters, its stack as the pattern says.

    Raises `ArchError` E715 with every letter that is none, or for a pattern without layers.
    """
    family = next(f for f in families() if f.blocks is not None and f.blocks.letters)
    return spec_text(family.name, {"depth": Fraction(len(blocks(pattern, family)))}, (), blocks(pattern, family))


def blocks(pattern: str, family: Family) -> tuple[str, ...]:
    """The blocks of a pattern, by their names in the spec of the family."""
    assert family.blocks is not None
    letters = family.blocks.letters
    known = ", ".join(f"{letter} {block}" for letter, block in letters.items())
    source = Source("<pattern>", pattern)
    wrong = [i for i, letter in enumerate(pattern) if letter not in letters and letter not in _PARTS]
    problems = [Diagnostic("E715", _unknown(pattern[i], letters), Span(source, i, i + 1), help=known) for i in wrong]
    if problems:
        raise ArchError(problems)
    found = tuple(letters[letter] for letter in pattern if letter in letters)
    if not found:
        raise error("E715", "a pattern without layers", help=f"letters: {known}")
    return found


def _unknown(letter: str, letters: object) -> str:
    assert isinstance(letters, dict)
    other = letter.swapcase()
    return f"no layer is written '{letter}'" + (f"; did you mean '{other}'?" if other in letters else "")
