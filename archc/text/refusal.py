"""Where and why the parser stopped, and what is then said about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from archc.diagnostics import Diagnostic, Note, Source, Span
from archc.text.scan import Outline, Scrap


@dataclass(frozen=True)
class Refusal:
    """Where the parser stopped: the scrap, what it would have taken instead, what it had on its stack."""

    source: Source
    outline: Outline
    at: int
    accepts: frozenset[str]
    stack: Sequence[Any] = field(default=(), repr=False)

    @property
    def token(self) -> Scrap:
        """The scrap that the parser refused."""
        return self.outline.scraps[self.at]

    @property
    def before(self) -> Scrap | None:
        """The scrap before it."""
        return self.outline.scraps[self.at - 1] if self.at else None

    @property
    def start(self) -> int:
        """The first scrap of the statement in which the refused scrap seems to stand."""
        return self.outline.start_of(self.at)

    def span(self, i: int) -> Span:
        """Where a scrap stands."""
        return Span(self.source, self.outline.scraps[i].start, self.outline.scraps[i].end)

    def behind(self, i: int) -> Span:
        """The place directly behind a scrap."""
        return Span(self.source, self.outline.scraps[i].end, self.outline.scraps[i].end)

    def opened(self, i: int) -> Note:
        """The note that shows a bracket."""
        return Note(f"'{self.outline.scraps[i].text}' opened here", self.span(i))


@dataclass(frozen=True)
class Mistake:
    """A diagnostic and how to read on: the scrap whose statement to drop, or (offset, text) to write over the text."""

    diagnostic: Diagnostic
    drop: int
    patch: tuple[int, str] | None = None
