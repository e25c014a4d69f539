"""Stacks written as letters, one a layer (`"M-M*-"`), as Megatron and Nemotron-H write theirs, or as words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction

from archc.diagnostics import ArchError, Diagnostic, Source, Span, closest, error
from archc.exchange.family import Blocks, Family, families
from archc.exchange.spec_text import spec_text

BETWEEN = "| "
"""What may stand between letters and says nothing about layers."""


def pattern_spec(pattern: str) -> str:
    """The spec of a pattern: that of a family with its letters or its words, its stack as the pattern says.

    Words are those of the list in a config (`"mamba mamba attention"`, as they stand there with brackets, quotes and
    commas or without). Raises `ArchError` E715 with every letter or word that is none, or for a pattern without layers.
    """
    whole = Span(Source("<pattern>", pattern), 0, len(pattern))
    family, found = _of_words(whole) if re.search("[a-z]{2}", pattern) else _of_letters(whole)
    assert family.blocks is not None
    blocks = [family.blocks.kinds[kind] for kind in found]
    return spec_text(family.spec, {"depth": Fraction(len(blocks))}, (), blocks)


def _of_letters(pattern: Span) -> tuple[Family, tuple[str, ...]]:
    family = next(f for f, blocks in _with_blocks() if blocks.letters)
    return family, kinds(pattern, family)


def _of_words(pattern: Span) -> tuple[Family, tuple[str, ...]]:
    """The first family that has a kind of layer for every word, or what is wrong by the one that has most of them."""
    words = [(each[0], each.start()) for each in re.finditer(r"\w+", pattern.text)]
    family, blocks = max(_with_blocks(), key=lambda each: sum(word in each[1].kinds for word, _ in words))
    known = ", ".join(blocks.kinds)
    problems = []
    for word, start in words:
        if word not in blocks.kinds:
            near = closest(word, blocks.kinds)
            text = f"no layer is called '{word}'" + (f"; {near}" if near else "")
            problems.append(Diagnostic("E715", text, _part(pattern, start, len(word)), help=f"words: {known}"))
    if problems:
        raise ArchError(problems)
    return family, tuple(word for word, _ in words)


def _with_blocks() -> Iterator[tuple[Family, Blocks]]:
    return ((family, family.blocks) for family in families() if family.blocks is not None)


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
    for i, letter in enumerate(pattern.text):
        if letter not in letters and letter not in BETWEEN:
            near = f"; did you mean '{letter.swapcase()}'?" if letter.swapcase() in letters else ""
            yield f"no layer is written '{letter}'{near}", _part(pattern, i, 1)


def _part(pattern: Span, start: int, length: int) -> Span:
    """Some characters of a pattern, by where they begin in it."""
    return Span(pattern.source, pattern.start + start, pattern.start + start + length)
