"""The one way a spec is laid out: `archc fmt`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from archc.diagnostics import Source
from archc.text import ast
from archc.text.layout import INDENT, WIDTH, Line, code, lay_out
from archc.text.parse import parse
from archc.text.pieces import Piece, pieces


@dataclass(frozen=True)
class Chunk:
    """What begins a line: a statement (of one with a body, its head), a `}`, or a comment between statements.

    `level` counts the bodies around it; `blank` says whether a blank line stands before it.
    """

    level: int
    pieces: tuple[Piece, ...]
    blank: bool
    node: ast.Stmt | None = None

    @property
    def flat(self) -> bool:
        """Whether it was written on one line and holds no comment."""
        return not any(p.newlines or p.is_comment for p in self.pieces[1:]) and not self.pieces[0].is_comment

    @property
    def aligned(self) -> int:
        """The piece that may stand in line with those above and below: `=`, or what follows `size name:`; 0 if none."""
        match self.node:
            case ast.Let() | ast.Init():
                found = next(i for i, p in enumerate(self.pieces) if p.text == "=")
            case ast.SizeDecl():
                found = next(i for i, p in enumerate(self.pieces) if p.text == ":") + 1
            case _:
                return 0
        return 0 if any(p.newlines or p.is_comment for p in self.pieces[1 : found + 1]) else found

    @property
    def column(self) -> int:
        """Where the author put the aligned piece, from the start of the statement."""
        return self.pieces[self.aligned].start - self.pieces[0].start

    @property
    def natural_column(self) -> int:
        """Where it stands without padding."""
        return len(code(self.pieces[: self.aligned + 1])) - len(self.pieces[self.aligned].text)


def format(source: Source) -> str:
    """The text in its canonical layout; ArchError if it does not parse.

    Comments, the author's line breaks within a statement, single blank lines and aligned `=` stay. The meaning stays:
    the result parses to the same tree, and formatting it again changes nothing.
    """
    tree = parse(source)
    starts = {node.span.start: node for node in tree.walk() if isinstance(node, ast.Stmt)}
    chunks = _join_short_bodies(_chunks(pieces(source, tree), starts))
    lines = [line for chunk, padding in _padded(chunks) for line in _lines(chunk, padding)]
    return "\n".join(_with_comments(lines)).strip("\n") + "\n"


def _chunks(found: Sequence[Piece], starts: dict[int, ast.Stmt]) -> Iterator[Chunk]:
    """The pieces, cut where lines have to begin."""
    bounds = [0, *(i for i in range(1, len(found)) if _begins(found, i, starts)), len(found)]
    level = 0
    for start, end in pairwise(bounds):
        part = tuple(found[start:end])
        level -= part[0].text == "}"
        blank = part[0].newlines > 1 and part[0].text != "}"
        yield Chunk(level, part, blank, starts.get(part[0].start))
        level += any(p.text == "{" for p in part)


def _begins(found: Sequence[Piece], i: int, starts: dict[int, ast.Stmt]) -> bool:
    """Whether a piece begins a line of its own; a comment does unless it stands within a statement or behind code."""
    piece = found[i]
    if not piece.is_comment:
        return piece.text == "}" or piece.start in starts
    follows = next((p for p in found[i:] if not p.is_comment), None)
    return piece.newlines > 0 and (follows is None or follows.text == "}" or follows.start in starts)


def _join_short_bodies(chunks: Iterable[Chunk]) -> list[Chunk]:
    """Bodies of at most one statement that were written on one line stay there if they fit."""
    done: list[Chunk] = []
    for chunk in chunks:
        done.append(chunk)
        if count := _short_body(done):
            parts = done[-count:]
            joined = tuple(replace(p, newlines=0) if p is c.pieces[0] else p for c in parts for p in c.pieces)
            done[-count:] = [replace(parts[0], pieces=joined)]
    return done


def _short_body(done: Sequence[Chunk]) -> int:
    """How many chunks at the end make up one line with a body: a head, a statement or none, a `}`; 0 if none do."""
    if done[-1].pieces[0].text != "}":
        return 0
    if done[-2].pieces[-1].text == "{":
        return 2
    if len(done) < 3 or done[-3].pieces[-1].text != "{" or not all(c.flat for c in done[-3:-1]):
        return 0
    head, statement, brace = done[-3:]
    line = code([*head.pieces, *statement.pieces, brace.pieces[0]])
    fits = len(INDENT) * head.level + len(line) <= WIDTH
    return 3 if fits and not statement.pieces[0].newlines and not brace.pieces[0].newlines else 0


def _padded(chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, int]]:
    """Each chunk with the spaces before its aligned piece that keep it in line with its neighbours."""
    run: list[Chunk] = []
    for chunk in chunks:
        if run and not _continues(run[-1], chunk):
            yield from _pad(run)
            run = []
        run.append(chunk)
    yield from _pad(run)


def _continues(before: Chunk, chunk: Chunk) -> bool:
    """Whether two statements of a kind, on lines that follow each other, were aligned."""
    alike = type(before.node) is type(chunk.node) and before.aligned and chunk.aligned
    return bool(alike) and not chunk.blank and before.column == chunk.column


def _pad(run: Sequence[Chunk]) -> Iterator[tuple[Chunk, int]]:
    widest = max(chunk.natural_column for chunk in run)
    return ((chunk, widest - chunk.natural_column) for chunk in run)


def _lines(chunk: Chunk, padding: int) -> list[Line]:
    blank = [Line(0, "")] if chunk.blank else []
    return blank + lay_out(chunk.pieces, chunk.level, chunk.aligned, padding)


def _with_comments(lines: Sequence[Line]) -> Iterator[str]:
    """The lines as text; comments behind code on lines that follow each other stand in one column if they fit there."""
    for behind, group in groupby(lines, lambda line: bool(line.code and line.comment)):
        run = list(group)
        column = max(line.width for line in run) + 2 if behind else 0
        if any(column + len(line.comment) > WIDTH for line in run):
            column = 0
        for line in run:
            text = INDENT * line.level + line.code
            gap = max(column - len(text), 2) if behind else 0
            yield (text + " " * gap + line.comment).rstrip()
