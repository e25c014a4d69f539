"""What can be said of the statements of a definition before they run: their places and the names they declare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from archc.diagnostics import Note, closest
from archc.elaborate.bound import BlockUse, Function
from archc.elaborate.call import Definition
from archc.elaborate.frame import Frame
from archc.text import ast

WORDS: dict[type[ast.Stmt], str] = {
    ast.Return: "'return'",
    ast.Loop: "'loop'",
    ast.Shared: "'shared'",
    ast.Init: "'init'",
    ast.Frozen: "'frozen'",
    ast.Tied: "'tied'",
    ast.InputDecl: "'input'",
    ast.SizeDecl: "'size'",
    ast.FnDef: "'fn'",
    ast.BlockDef: "'block'",
}
MODEL_ONLY = (ast.BlockDef, ast.InputDecl, ast.SizeDecl)
SILENT = (ast.Init, ast.Frozen, ast.Tied, ast.SizeDecl, ast.FnDef, ast.BlockDef)
"""Statements that compute nothing and so may stand behind `return`."""


def targets(statement: ast.Stmt) -> tuple[ast.Ident, ...]:
    """The names that a statement binds."""
    match statement:
        case ast.Let():
            return statement.targets
        case ast.Loop():
            return tuple(state.name for state in statement.states)
        case ast.InputDecl():
            return statement.names
        case ast.Shared():
            return (statement.name,)
    return ()


def weights_named(statement: ast.Stmt) -> tuple[ast.Ident, ...]:
    """The weights that a statement says something of."""
    match statement:
        case ast.Init():
            return (statement.name,) if statement.name.text != "default" else ()
        case ast.Frozen() | ast.Tied():
            return statement.names
    return ()


def in_brackets(weight: str) -> str:
    """How a weight is written that stands in a body like a value."""
    return f"a weight is written with its axes: {weight}[...], or {weight}[] without any"


def declare(body: tuple[ast.Stmt, ...], frame: Frame) -> None:
    """Makes fns and blocks of a body known before its statements run."""
    for statement in body:
        match statement:
            case ast.FnDef():
                frame.scope.names[statement.name.text] = Function(statement, frame.scope)
            case ast.BlockDef():
                frame.scope.names[statement.name.text] = BlockUse(statement, frame.scope)
            case _:
                pass


def check(definition: Definition, frame: Frame) -> None:
    """Reports statements in the wrong place, names declared twice and properties of weights that there are not."""
    if definition in frame.shelf.checked:
        return
    frame.shelf.checked.add(definition)
    _places(definition, frame)
    _twice((p.name for p in definition.params), "parameter", frame)
    _twice((s.name for s in definition.body if isinstance(s, ast.FnDef | ast.BlockDef | ast.Shared)), "", frame)
    _twice((s.name for s in definition.body if isinstance(s, ast.SizeDecl)), "size", frame)
    _twice((s.name for s in definition.body if isinstance(s, ast.Init)), "init of", frame)
    inputs = [n for s in definition.body if isinstance(s, ast.InputDecl) for n in s.names]
    _twice(inputs, "input", frame)
    for ident in inputs:
        if ident.text in ("tokens", "pos"):
            frame.complain("E124", f"every model has '{ident.text}' already", ident)
    for statement in definition.body:
        if isinstance(statement, ast.SizeDecl):
            _twice((s.name for s in statement.settings), f"in size {statement.name.text},", frame)
    _properties(definition, frame)


def _places(definition: Definition, frame: Frame) -> None:
    where = {ast.FnDef: "fn", ast.BlockDef: "block", ast.ModelDef: "model"}[type(definition)]
    returned: ast.Return | None = None
    for statement in definition.body:
        if isinstance(statement, MODEL_ONLY) and where != "model":
            _misplaced(statement, f"a {where}", frame)
        if isinstance(statement, ast.Init) and statement.name.text == "default" and where != "model":
            frame.complain("E115", f"'init default' stands in a model, not in a {where}", statement.name)
        if isinstance(statement, ast.Return) and where == "block":
            name = definition.name.text
            frame.complain("E235", f"block '{name}' returns; a block carries x", statement, help="write x = ...")
        if isinstance(statement, ast.Loop):
            for inner in statement.body:
                if not isinstance(inner, ast.Let):
                    _misplaced(inner, "a loop", frame)
        if returned is not None and not isinstance(statement, SILENT):
            frame.complain(
                "E118", "nothing is computed after 'return'", statement, Note("it returns here", returned.span)
            )
            return
        if isinstance(statement, ast.Return):
            returned = statement


def _misplaced(statement: ast.Stmt, where: str, frame: Frame) -> None:
    word = WORDS[type(statement)]
    only = "a model" if isinstance(statement, MODEL_ONLY) else "the body of a fn, block or model"
    frame.complain("E115", f"{word} stands in {only}, not in {where}", statement)


def _twice(names: Iterable[ast.Ident], what: str, frame: Frame) -> None:
    seen: dict[str, ast.Ident] = {}
    for ident in names:
        first = seen.setdefault(ident.text, ident)
        if first is not ident:
            message = f"{what} '{ident.text}' is declared twice".lstrip()
            frame.complain("E124", message, ident, Note("first here", first.span))


def _properties(definition: Definition, frame: Frame) -> None:
    """`init`, `frozen` and `tied` name weights of their own definition."""
    mentions: dict[str, int] = {}
    plain: set[str] = set()
    for node in nodes(definition.body):
        if isinstance(node, ast.Name):
            plain.add(node.text)
        if isinstance(node, ast.WeightRef):
            mentions[node.name.text] = mentions.get(node.name.text, 0) + 1
    for statement in definition.body:
        for ident in weights_named(statement):
            word = WORDS[type(statement)]
            if ident.text not in mentions:
                hint = closest(ident.text, mentions)
                message = f"{word}: '{definition.name.text}' has no weight '{ident.text}'"
                written = f"its weights are: {', '.join(sorted(mentions))}" if mentions else "it writes none"
                if ident.text in plain:
                    written = in_brackets(ident.text)
                frame.complain("E406", message + (f"; {hint}" if hint else ""), ident, help=written)
            elif isinstance(statement, ast.Tied) and mentions[ident.text] == 1:
                frame.complain("E407", f"weight '{ident.text}' is tied, but written only once", ident)


def nodes(roots: Iterable[ast.Node], inner: bool = False) -> Iterator[ast.Node]:
    """The roots and every node below them; without `inner` not those of definitions inside of a body.

    Without recursion, since a sum of a thousand terms is a thousand deep.
    """
    todo: list[ast.Node] = list(roots)
    while todo:
        node = todo.pop()
        if inner or not isinstance(node, ast.FnDef | ast.BlockDef):
            yield node
            todo += node.children()
