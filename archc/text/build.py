"""From Lark's tree to the syntax tree: one small rule per production of the grammar."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from lark import Token, Tree

from archc.diagnostics import Source, Span
from archc.text import ast

Rule = Callable[[Span, list[Any]], Any]
"""What a production makes of its span and of what its children became: names are Idents, other tokens stay tokens."""


def build(source: Source, tree: Tree[Token]) -> ast.File:
    """The syntax tree of a parsed file; without recursion over its depth, since a sum may have a thousand terms."""
    done: dict[int, Any] = {}

    def child(each: Tree[Token] | Token | None) -> Any:
        match each:
            case Tree():
                return done[id(each)]
            case Token(type="NAME"):
                return ast.Ident(_span(source, each), str(each))
            case _:
                return each

    for each in tree.iter_subtrees():
        done[id(each)] = _RULES[each.data](_span(source, each), [child(c) for c in each.children])
    items = done[id(tree)]
    return ast.File(
        Span(source, 0, len(source.text)),
        tuple(i for i in items if isinstance(i, ast.Import)),
        tuple(i for i in items if not isinstance(i, ast.Import)),
    )


def _span(source: Source, each: Tree[Token] | Token) -> Span:
    """Where a token or a tree stands; an empty tree (`[]` holds one) stands nowhere."""
    where = each if isinstance(each, Token) else each.meta
    return Span(source, getattr(where, "start_pos", 0), getattr(where, "end_pos", 0))


def _doc(at: Span) -> str:
    """The text of the `##` lines that end on the line before a declaration."""
    lines = at.source.text[: at.start].split("\n")
    if lines.pop().strip():
        return ""
    found: list[str] = []
    while lines and lines[-1].strip().startswith("##"):
        found.append(lines.pop().strip().removeprefix("##").strip())
    return "\n".join(reversed(found))


def _given(children: Iterable[Any]) -> tuple[Any, ...]:
    """The children that the author wrote: Lark puts None for an optional part left out."""
    return tuple(c for c in children if c is not None)


def _pattern(at: Span, children: list[Any]) -> ast.Pattern:
    rest, *axes = children
    return ast.Pattern(at, rest is not None, tuple(axes))


def _binary(op: ast.BinaryOp) -> Rule:
    return lambda at, c: ast.Binary(at, op, c[0], c[1])


_DECLARATIONS: dict[str, Rule] = {
    "start": lambda at, c: _given(c),
    "import_": lambda at, c: ast.Import(at, c[0].value[1:-1]),
    "model": lambda at, c: ast.ModelDef(at, c[0].value, c[1], c[2] or (), c[3], _doc(at)),
    "fn": lambda at, c: ast.FnDef(at, c[0], c[1] or (), c[2], _doc(at)),
    "block": lambda at, c: ast.BlockDef(at, c[0], c[1] or (), c[2], _doc(at)),
    "params": lambda at, c: _given(c),
    "param": lambda at, c: ast.Param(at, c[0], c[1], c[2]),
    "pattern": _pattern,
    "body": lambda at, c: _given(c),
}
_STATEMENTS: dict[str, Rule] = {
    "let": lambda at, c: ast.Let(at, tuple(c[:-1]), c[-1]),
    "return_": lambda at, c: ast.Return(at, tuple(c)),
    "loop": lambda at, c: ast.Loop(at, tuple(c[:-1]), c[-1]),
    "state": lambda at, c: ast.LoopState(at, c[0], c[1], c[2]),
    "shared": lambda at, c: ast.Shared(at, c[0], c[1]),
    "init": lambda at, c: ast.Init(at, c[0], c[1]),
    "frozen": lambda at, c: ast.Frozen(at, tuple(c)),
    "tied": lambda at, c: ast.Tied(at, tuple(c)),
    "input": lambda at, c: ast.InputDecl(at, tuple(c)),
    "size": lambda at, c: ast.SizeDecl(at, ast.Ident(_span(at.source, c[0]), c[0].value), tuple(c[1:])),
    "setting": lambda at, c: ast.Setting(at, c[0], c[1]),
}
_EXPRESSIONS: dict[str, Rule] = {
    "or_": _binary("or"),
    "and_": _binary("and"),
    "not_": lambda at, c: ast.Unary(at, "not", c[0]),
    "compare": lambda at, c: ast.Binary(at, c[1].value, c[0], c[2]),
    "add": _binary("+"),
    "sub": _binary("-"),
    "mul": _binary("*"),
    "div": _binary("/"),
    "contract": lambda at, c: ast.Contract(at, c[0], c[1]),
    "neg": lambda at, c: ast.Unary(at, "-", c[0]),
    "pow": _binary("^"),
    "number": lambda at, c: ast.Number(at, c[0].value),
    "name": lambda at, c: ast.Name(at, c[0].text),
    "call": lambda at, c: ast.Call(at, c[0], c[1] or ()),
    "labelled": lambda at, c: replace(c[1], span=at, label=c[0]),
    "args": lambda at, c: _given(c),
    "arg": lambda at, c: ast.Arg(at, None, c[0]),
    "keyword": lambda at, c: ast.Arg(at, c[0], c[1]),
    "arrow": lambda at, c: ast.Arrow(at, c[0], c[1]),
    "plain": lambda at, c: tuple(c),
    "weight": lambda at, c: ast.WeightRef(at, c[0], c[1], c[2]),
    "lookup": lambda at, c: ast.Lookup(at, c[0], c[1]),
    "axes": lambda at, c: tuple(c),
    "sized": lambda at, c: ast.AxisDecl(at, c[0], c[1]),
    "axis": lambda at, c: ast.AxisRef(at, c[0].text, len(c) - 1),
    "list": lambda at, c: ast.ListExpr(at, _given(c)),
    "override": lambda at, c: ast.Override(at, c[0], c[1]),
    "axis_list": lambda at, c: ast.AxisList(at, tuple(c)),
}
_RULES = _DECLARATIONS | _STATEMENTS | _EXPRESSIONS
