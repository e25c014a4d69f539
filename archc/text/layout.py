"""One statement as lines: spaces between pieces, the author's line breaks, and more where a line is too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archc.text.pieces import Piece, follows_value

WIDTH = 120
INDENT = "    "

_TIGHT_BEFORE = {")", "]", ",", ":", "'"}
_TIGHT_AFTER = {"(", "["}
_BREAK_BEFORE = {"or": 0, "and": 1, "+": 3, "-": 3, "*": 4, "/": 4}
_BREAK_AFTER_COMMA = 2
"""Where a long line is broken first, among places at the same depth of brackets."""


@dataclass(frozen=True)
class Line:
    """One line of output: how far in, its code, the comment at its end."""

    level: int
    code: str
    comment: str = ""

    @property
    def width(self) -> int:
        """How many columns the code takes."""
        return len(INDENT) * self.level + len(self.code)


def lay_out(pieces: Sequence[Piece], level: int, padded: int = 0, padding: int = 0) -> list[Line]:
    """The lines of a statement; `padding` further spaces stand before piece `padded`."""
    breaks = {i for i, p in enumerate(pieces) if i and (p.newlines or pieces[i - 1].is_comment)}
    breaks -= {i for i, p in enumerate(pieces) if p.is_comment and not p.newlines}
    while True:
        ends = [*sorted(breaks), len(pieces)]
        starts = [0, *ends[:-1]]
        levels = _levels(pieces, starts, level)
        lines = [_line(pieces, s, e, depth, padded, padding) for s, e, depth in zip(starts, ends, levels, strict=True)]
        long = (i for i, line in enumerate(lines) if line.width > WIDTH)
        places = (_place(pieces, max(starts[i], padded), starts[i], ends[i], levels[i]) for i in long)
        place = next((p for p in places if p is not None), None)
        if place is None:
            return lines
        breaks.add(place)


def code(pieces: Sequence[Piece]) -> str:
    """Pieces on one line."""
    return "".join(" " * _spaced(pieces, i) + p.text for i, p in enumerate(pieces))


def _line(pieces: Sequence[Piece], start: int, end: int, level: int, padded: int, padding: int) -> Line:
    stop = end - pieces[end - 1].is_comment
    gaps = [0, *(_spaced(pieces, i) + padding * (i == padded) for i in range(start + 1, stop))]
    text = "".join(" " * gap + piece.text for gap, piece in zip(gaps, pieces[start:stop], strict=False))
    return Line(level, text, pieces[stop].text if stop < end else "")


def _spaced(pieces: Sequence[Piece], i: int) -> bool:
    """Whether a space stands before a piece."""
    if i == 0 or pieces[i].text in _TIGHT_BEFORE or pieces[i - 1].text in _TIGHT_AFTER:
        return False
    holds = pieces[i].text in ("(", "[") and pieces[i - 1].ends_value
    empty = pieces[i].text == "}" and pieces[i - 1].text == "{"
    return not (holds or empty or _is_sign(pieces, i - 1))


def _is_sign(pieces: Sequence[Piece], i: int) -> bool:
    """Whether a `-` negates rather than subtracts."""
    return pieces[i].text == "-" and not follows_value(pieces, i)


def _levels(pieces: Sequence[Piece], starts: Sequence[int], level: int) -> list[int]:
    """How far in each line stands: one deeper than the line of the innermost open bracket, a closer as deep as it.

    The head of a body goes one deeper still, lest it run into the body, unless a closer begins one of its lines.
    """
    head = any(p.text == "{" for p in pieces[-2:]) and not any(pieces[s].text in (")", "]") for s in starts)
    levels: list[int] = []
    open_at: list[int] = []
    for start, end in zip(starts, [*starts[1:], len(pieces)], strict=True):
        closing = pieces[start].text in (")", "]") and bool(open_at)
        inner = open_at[-1] + (not closing) if open_at else level + bool(levels) * (1 + head)
        levels.append(inner)
        for piece in pieces[start:end]:
            if piece.text in ("(", "["):
                open_at.append(inner + (head and start == 0))
            elif piece.text in (")", "]"):
                open_at.pop()
    return levels


def _place(pieces: Sequence[Piece], anchor: int, start: int, end: int, level: int) -> int | None:
    """The best place to break a line: outside of brackets first, then the loosest operator, then the last that fits."""
    found: list[tuple[int, int, int]] = []
    depth, column = 0, len(INDENT) * level
    for i in range(start, end):
        text = pieces[i].text
        depth -= text in (")", "]")
        fits = column <= WIDTH or not found
        if i > anchor and not pieces[i].is_comment and fits and (rank := _rank(pieces, i)) is not None:
            found.append((depth, rank, -i))
        depth += text in ("(", "[")
        column += len(text) + _spaced(pieces, i)
    return -min(found)[2] if found else None


def _rank(pieces: Sequence[Piece], i: int) -> int | None:
    """How willingly a line is broken before a piece; None where it is not."""
    if pieces[i - 1].text == ",":
        return _BREAK_AFTER_COMMA
    return None if _is_sign(pieces, i) else _BREAK_BEFORE.get(pieces[i].text)
