"""Text to syntax tree, or every syntax error at once."""

from __future__ import annotations

from lark import UnexpectedInput

from archc.diagnostics import ArchError, Source
from archc.text import ast
from archc.text.build import build
from archc.text.grammar import parser


def parse(source: Source) -> ast.File:
    """The syntax tree of a spec; ArchError with one diagnostic per syntax error, in the order of the text."""
    try:
        tree = parser().parse(source.text)
    except UnexpectedInput:
        from archc.text.recover import syntax_errors  # only mistakes pay for it

        raise ArchError(syntax_errors(source)) from None
    return build(source, tree)
