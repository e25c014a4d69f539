"""Text to syntax tree, or every syntax error at once."""

from __future__ import annotations

from lark import UnexpectedInput

from archc.diagnostics import ArchError, Source, error
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
    file = build(source, tree)
    if deep := _too_deep(file):
        raise error(
            "E014", f"more than {DEEPEST} expressions inside one another", deep.span, help="give the inner ones names"
        )
    return file


DEEPEST = 100
"""Expressions inside of one another. No spec comes near, and nobody reads more."""


def _too_deep(file: ast.File) -> ast.Node | None:
    """The first expression with too many around it; the terms of a sum stand side by side."""
    todo: list[tuple[ast.Node, int]] = [(file, 0)]
    while todo:
        node, depth = todo.pop()
        if depth > DEEPEST:
            return node
        for each in node.children():
            beside = isinstance(node, ast.Binary) and isinstance(each, ast.Binary) and each is node.left
            inside = isinstance(each, ast.Expr) and not beside
            todo.append((each, 0 if isinstance(each, ast.Stmt) else depth + inside))
    return None
