"""Names: what they stand for, how they are assigned, which of them nothing reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NoReturn

from archc.diagnostics import closest
from archc.elaborate import builtins, statements
from archc.elaborate.axes import axis_in_scope
from archc.elaborate.bound import BlockUse, Bound, Builtin, Function, SharedFunction
from archc.elaborate.call import Definition
from archc.elaborate.frame import Frame
from archc.elaborate.numbers import Num, Root
from archc.ops.pair import MASKS
from archc.text import ast
from archc.text.foreign import CALLS


def name(node: ast.Name, frame: Frame) -> Bound:
    """A name that is evaluated: a variable, `pos`, a mask, the size of an axis in scope, a function of the language."""
    text = node.text
    bound = frame.scope.find(text)
    if bound is not None:
        return bound
    if text == "pos" and frame.shelf.pos is not None:
        return frame.shelf.pos
    if text in MASKS and not MASKS[text]:
        return frame.add("mask", (), node, {"name": text, "sizes": ()}, label=text)
    if text == "layer" and frame.builder.name == "init" and frame.block is not None:
        layer = frame.block.find(text)
        assert layer is not None
        return layer
    size = axis_in_scope(text, node, frame)
    if size is not None:
        return size
    if text in builtins.NAMES:
        return Builtin(text)
    unknown(text, "name", frame.scope.visible() | {"pos"}, node, frame)


def unknown(text: str, what: str, candidates: set[str], node: ast.Node, frame: Frame) -> NoReturn:
    """Raises E101 with what may have been meant: other words for a thing, or else the nearest name."""
    meant = CALLS.get(text.lower(), "") if what == "function" else _meant(text, frame)
    hint = "" if meant else closest(text, candidates | builtins.NAMES)
    instead = "give it a value above, or make it a parameter"
    if what == "function":
        instead = "declare it with 'fn', or import the file that does"
        if frame.builder.name == "init":
            instead = "write normal(std), uniform(low, high), log_uniform(low, high), orthogonal() or numbers"
    help = meant or ("" if hint else instead)
    frame.fail("E101", f"unknown {what} '{text}'" + (f"; {hint}" if hint else ""), node, help=help)


def _meant(text: str, frame: Frame) -> str:
    """What a name without a value is by the rest of its body: a weight, or what its own line is about to give."""
    if any(text == n.text for s in frame.call.definition.body for n in statements.weights_named(s)):
        return statements.in_brackets(text)
    if text == frame.target:
        return f"a token is made of the one before it by scan(decay = ..., input = ...), or by loop {text}[...] = 0"
    return ""


def read_in(body: Iterable[ast.Stmt]) -> frozenset[str]:
    """The names that some statements evaluate, also as callees."""
    nodes = list(statements.nodes(body, inner=True))
    return frozenset(n.text for n in nodes if isinstance(n, ast.Name)) | frozenset(
        n.callee.text for n in nodes if isinstance(n, ast.Call)
    )


def assign(ident: ast.Ident, bound: Bound, frame: Frame) -> None:
    """Binds a name; an earlier value that nothing has read is reported."""
    before = frame.scope.unread.get(ident.text)
    if before is not None and not frame.shelf.diagnostics:
        _nothing_uses(f"this '{ident.text}'", before, frame)
    if isinstance(bound, Num) and not bound.roots:
        bound = replace(bound, roots=(Root(ident.text, str(bound), "this line", ident.span),))
    frame.scope.names[ident.text] = bound
    if not ident.text.startswith("_"):
        frame.scope.unread[ident.text] = ident


def report_unused(definition: Definition, frame: Frame, outputs: tuple[str, ...] = ()) -> None:
    """Reports names of a finished body that nothing reads: a misspelt use or a forgotten term.

    Quiet while something else is wrong. `outputs` are read by what runs the body.
    """
    if frame.shelf.diagnostics:
        return
    scope = frame.scope
    elsewhere = read_in(s for s in definition.body if isinstance(s, ast.Init)) | _read_in_idle_blocks(definition, frame)
    read = scope.used | elsewhere | set(outputs)
    for param in definition.params:
        key = param.name.text
        sized = param.pattern is not None and any(a.text in scope.used for a in param.pattern.axes)
        if key not in read and not sized and not key.startswith("_"):
            _nothing_uses(f"parameter '{key}' of '{definition.name.text}'", param, frame)
    for ident in scope.unread.values():
        if ident.text not in elsewhere and ident.text not in outputs:
            _nothing_uses(f"'{ident.text}'", ident, frame)
    for statement in definition.body:
        if isinstance(statement, ast.FnDef | ast.BlockDef | ast.Shared) and statement.name.text not in read:
            bound = scope.names.get(statement.name.text)
            if isinstance(bound, Function | BlockUse | SharedFunction):
                _nothing_uses(f"'{statement.name.text}'", statement.name, frame)


def _read_in_idle_blocks(definition: Definition, frame: Frame) -> frozenset[str]:
    """What blocks would read that are listed but run at no layer at this size, such as `[mamba * 32, attention]`."""
    running = {layer.block for stack in frame.call.stacks.values() for layer in stack.layers}
    blocks = [s for s in definition.body if isinstance(s, ast.BlockDef) and s.name.text not in running]
    body = [statement for block in blocks for statement in block.body]
    axes = {n.axis.name for n in statements.nodes(body, inner=True) if isinstance(n, ast.AxisDecl)}
    return read_in(body) | axes


def _nothing_uses(what: str, node: ast.Node, frame: Frame) -> None:
    frame.complain("E111", f"nothing uses {what}", node, help="remove it, use it, or begin its name with _")
