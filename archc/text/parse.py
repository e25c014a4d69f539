"""Text to syntax tree, or every syntax error at once."""

from __future__ import annotations

from lark import UnexpectedInput

from archc.diagnostics import Source, Span, error
from archc.text import ast
from archc.text.build import build
from archc.text.grammar import parser


def parse(source: Source) -> ast.File:
    """The syntax tree of a spec; ArchError with one diagnostic per syntax error."""
    try:
        tree = parser().parse(source.text)
    except UnexpectedInput as first:
        at = getattr(first, "pos_in_stream", None)
        at = len(source.text) if at is None else at
        raise error("E001", str(first).splitlines()[0], Span(source, at, at + 1)) from None
    return build(source, tree)
