"""The tokens and comments of a text that parses, as the formatter moves them about, less needless parentheses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from archc.diagnostics import Source
from archc.text import ast
from archc.text.grammar import parser

_COMMENT = re.compile(r"#[^\n]*")


@dataclass(frozen=True)
class Piece:
    """A token or a comment; `newlines` counts those between it and the piece before."""

    kind: str
    text: str
    start: int
    end: int
    newlines: int

    @property
    def is_comment(self) -> bool:
        """Whether this is a comment, so that its line ends behind it."""
        return self.kind == "COMMENT"

    @property
    def ends_value(self) -> bool:
        """Whether a value may end here."""
        return self.kind in ("NAME", "NUMBER") or self.text in (")", "]", "'")


def pieces(source: Source, tree: ast.File) -> tuple[Piece, ...]:
    """Everything in the text, in order, but white space, parentheses that change nothing and commas before a closer."""
    found = tuple(_read(source.text))
    needless = _needless_parentheses(found, tree) | _needless_commas(found)
    kept: list[Piece] = []
    owed = 0
    for i, piece in enumerate(found):
        if i not in needless:
            kept.append(replace(piece, newlines=max(owed, piece.newlines)))
            owed = 0
        elif piece.text == "(":
            owed = max(owed, piece.newlines)
    return tuple(kept)


def follows_value(found: Sequence[Piece], i: int) -> bool:
    """Whether a value ends before a piece: a `-` then subtracts, a `(` holds arguments; comments do not matter."""
    return next((p.ends_value for p in reversed(found[:i]) if not p.is_comment), False)


def _read(text: str) -> Iterator[Piece]:
    """The tokens as the parser sees them, and the comments in the gaps between."""
    spans = [
        (t.type, t.start_pos or 0, len(t)) for t in parser().parse_interactive(text).iter_parse() if t.type != "_NL"
    ]
    end = 0
    for kind, start, length in (*spans, ("", len(text), 0)):
        for comment in _COMMENT.finditer(text, end, start):
            newlines = text.count("\n", end, comment.start())
            yield Piece("COMMENT", comment[0].rstrip(), comment.start(), comment.end(), newlines)
            end = comment.end()
        if kind:
            yield Piece(kind, text[start : start + length], start, start + length, text.count("\n", end, start))
            end = start + length


def _needless_commas(found: Sequence[Piece]) -> set[int]:
    """Commas before a closer on the same line."""
    closed = (")", "]")
    return {
        i
        for i, (p, after) in enumerate(pairwise(found))
        if p.text == "," and after.text in closed and not after.newlines
    }


# --- parentheses -------------------------------------------------------------------------------------

_LEVEL = {"or": 1, "and": 2, "==": 4, "!=": 4, "<": 4, "<=": 4, ">": 4, ">=": 4, "+": 5, "-": 5, "*": 6, "/": 6, "^": 9}
_NOT, _COMPARE, _SUM, _PRODUCT, _CONTRACT, _UNARY, _ATOM = 3, 4, 5, 6, 7, 8, 10


def _level(node: ast.Expr) -> int:
    """How tightly an expression binds, as the grammar has it."""
    match node:
        case ast.Binary():
            return _LEVEL[node.op]
        case ast.Contract():
            return _CONTRACT
        case ast.Unary():
            return _NOT if node.op == "not" else _UNARY
        case _:
            return _ATOM


def _operands(node: ast.Node) -> Iterator[tuple[ast.Expr, int]]:
    """The expressions directly below a node and how tightly each has to bind to stand there without parentheses."""
    match node:
        case ast.Binary(op="^"):
            yield from ((node.left, _ATOM), (node.right, _UNARY))
        case ast.Binary(op="*" | "/"):
            yield from ((node.left, _PRODUCT), (node.right, _UNARY))
        case ast.Binary(op="+" | "-" | "and" | "or"):
            yield from ((node.left, _level(node)), (node.right, _level(node) + 1))
        case ast.Binary():
            yield from ((node.left, _SUM), (node.right, _SUM))
        case ast.Contract():
            # -x @ W needs none, but who wrote (-x) @ W did not want to be asked which
            yield (node.left, _ATOM if isinstance(node.left, ast.Unary) else _CONTRACT)
        case ast.Unary():
            yield (node.value, _level(node))
        case _:
            yield from ((child, 0) for child in node.children() if isinstance(child, ast.Expr))


def _needless_parentheses(found: Sequence[Piece], tree: ast.File) -> set[int]:
    """The parentheses around values that the grammar does not need; kept where a comment stands just inside."""
    pairs = _grouping(found)
    first = {p.start: i for i, p in enumerate(found)}
    last = {p.end: i for i, p in enumerate(found)}
    needless: set[int] = set()
    for parent in tree.walk():
        for child, required in _operands(parent):
            opener, closer = first[child.span.start] - 1, last[child.span.end] + 1
            needed = _level(child) < required
            while pairs.get(opener) == closer:
                if not needed:
                    needless |= {opener, closer}
                needed = False
                opener, closer = opener - 1, closer + 1
    return needless


def _grouping(found: Sequence[Piece]) -> dict[int, int]:
    """The parentheses that group (rather than hold arguments), opener to closer."""
    pairs: dict[int, int] = {}
    pending: list[int] = []
    for i, piece in enumerate(found):
        if piece.text == "(":
            pending.append(i)
        elif piece.text == ")":
            opener = pending.pop()
            if not follows_value(found, opener):
                pairs[opener] = i
    return pairs
