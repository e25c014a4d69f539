"""What is wrong with a spec and where: sources, spans, diagnostics; drawn with carets or written as JSON."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any


@dataclass(frozen=True, eq=False)
class Source:
    """One text and the name that messages call it by; `standard`: it is of the library that every spec sees."""

    name: str
    text: str
    standard: bool = False

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The offset at which each line starts."""
        return (0, *(i + 1 for i, c in enumerate(self.text) if c == "\n"))

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both counted from 1."""
        line = bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of one line, without its end."""
        return self.text[self.starts[number - 1] :].split("\n", 1)[0].rstrip("\r")


@dataclass(frozen=True)
class Span:
    """A stretch of a source, by offsets; `end` is not part of it."""

    source: Source = field(repr=False)
    start: int
    end: int

    @property
    def line(self) -> int:
        """Line of the start, from 1."""
        return self.source.position(self.start)[0]

    @property
    def column(self) -> int:
        """Column of the start, from 1."""
        return self.source.position(self.start)[1]

    @property
    def text(self) -> str:
        """The text itself."""
        return self.source.text[self.start : self.end]

    def __str__(self) -> str:
        """`file:line:col`, as editors understand it."""
        return f"{self.source.name}:{self.line}:{self.column}"

    def to(self, other: Span) -> Span:
        """From the start of this one to the end of the other."""
        return Span(self.source, min(self.start, other.start), max(self.end, other.end))


@dataclass(frozen=True)
class Note:
    """A second place that matters: the other side of a conflict, the call that led here, a default."""

    message: str
    span: Span | None = None


@dataclass(frozen=True)
class Diagnostic:
    """One mistake: a stable code, one sentence, the place, other places, a suggestion."""

    code: str
    message: str
    span: Span | None
    notes: tuple[Note, ...] = ()
    help: str = ""
    severity: str = "error"


WIDEST = 160
"""Characters of a line that are shown."""


class ArchError(Exception):
    """A user's mistake, or several. The only exception that the command line turns into messages."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics: tuple[Diagnostic, ...] = tuple(diagnostics)
        super().__init__("\n".join(render(each) for each in self.diagnostics))


def error(code: str, message: str, span: Span | None = None, *notes: Note, help: str = "") -> ArchError:
    """An `ArchError` of one diagnostic."""
    return ArchError([Diagnostic(code, message, span, tuple(notes), help)])


def led_here(trail: Iterable[Span]) -> tuple[Span, tuple[Note, ...]]:
    """Where a mistake is shown, and the other lines that led to it, innermost first.

    A mistake inside of the standard library is shown at the line of the user's own that led there.
    """
    spans = tuple(dict.fromkeys(trail))
    first = next((i for i, span in enumerate(spans) if not span.source.standard), 0)
    within = [Note("in the standard library", span) for span in spans[:first]]
    beyond = [Note("called from here", span) for span in spans[first + 1 :]]
    if len(beyond) > 6:
        beyond = [*beyond[:3], Note(f"... {len(beyond) - 6} more calls"), *beyond[-3:]]
    return spans[first], (*within, *beyond)


def closest(word: str, candidates: Iterable[str]) -> str:
    """`did you mean '...'?`, or nothing if no candidate is near; one written with other cases and `_` is.

    >>> closest("RMSNorm", ["rms_norm", "normal"])
    "did you mean 'rms_norm'?"
    """
    import difflib  # only mistakes pay for it

    known = sorted(set(candidates))
    same = [each for each in known if each != word and _plain(each) == _plain(word)]
    found = same or difflib.get_close_matches(word, known, 1, 0.7)
    return f"did you mean '{found[0]}'?" if found else ""


def _plain(word: str) -> str:
    return word.replace("_", "").lower()


def closest_file(missing: Path) -> str:
    """The same for a spec file that is not there, among those beside it."""
    near = closest(missing.stem, [path.stem for path in missing.parent.glob("*.arch")])
    return near.replace("'?", ".arch'?")


def _window(text: str, column: int) -> tuple[str, int]:
    """A line, or of a long one what stands around a column, and where that is then.

    >>> _window("x" * 150 + "y" + "z" * 150, 150)[0].count("x"), _window("short", 2)
    (40, ('short', 2))
    """
    if len(text) <= WIDEST:
        return text, column
    start = max(0, min(column - 40, len(text) - WIDEST))
    front, back = "... " if start else "", " ..." if start + WIDEST < len(text) else ""
    return f"{front}{text[start : start + WIDEST]}{back}", column - start + len(front)


def _excerpt(span: Span, label: str, width: int) -> list[str]:
    """The line of a span with carets under it."""
    text, column = _window(span.source.line(span.line), span.column - 1)
    length = max(1, min(span.end - span.start, len(text) - column))
    lead = "".join("\t" if c == "\t" else " " for c in text[:column])
    gutter = " " * width
    return [
        f"{gutter} |",
        f"{span.line:>{width}} | {text}",
        f"{gutter} | {lead}{'^' * length}{' ' + label if label else ''}",
    ]


def render(diagnostic: Diagnostic) -> str:
    """The diagnostic as text for a terminal, several lines."""
    spans = [s for s in (diagnostic.span, *(n.span for n in diagnostic.notes)) if s is not None]
    width = max((len(str(s.line)) for s in spans), default=1)
    where = f"{diagnostic.span}: " if diagnostic.span else ""
    lines = [f"{where}{diagnostic.severity}[{diagnostic.code}]: {diagnostic.message}"]
    if diagnostic.span:
        lines += _excerpt(diagnostic.span, "", width)
    for note in diagnostic.notes:
        lines.append(f"{' ' * width} = {note.message}" + (f" ({note.span})" if note.span else ""))
        if note.span:
            lines += _excerpt(note.span, "", width)
    if diagnostic.help:
        lines.append(f"{' ' * width} = help: {diagnostic.help}")
    return "\n".join(lines)


def _place(span: Span | None) -> dict[str, Any] | None:
    if span is None:
        return None
    line, column = span.source.position(span.end)
    return {
        "file": span.source.name,
        "line": span.line,
        "column": span.column,
        "end_line": line,
        "end_column": column,
    }


def as_json(diagnostics: Sequence[Diagnostic]) -> list[dict[str, Any]]:
    """The same as data, for editors and scripts."""
    return [
        {
            "code": d.code,
            "severity": d.severity,
            "message": d.message,
            "span": _place(d.span),
            "notes": [{"message": n.message, "span": _place(n.span)} for n in d.notes],
            "help": d.help,
        }
        for d in diagnostics
    ]
