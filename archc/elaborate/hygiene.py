"""Axes at the border of a fn: renamed to what its patterns expect on the way in, and back on the way out.

A caller's axis that the fn has no name for, but whose name the fn uses for something else, is set aside under a fresh
name while the fn runs.
"""

from __future__ import annotations

from collections.abc import Iterator

from archc.diagnostics import Note
from archc.elaborate import statements
from archc.elaborate.bound import Axes, Bound
from archc.elaborate.call import Call, Definition
from archc.elaborate.frame import Frame
from archc.elaborate.weights import rename
from archc.ir.graph import Value
from archc.text import ast

Nodes = dict[str, ast.Node]


def rename_in(made: Call, nodes: Nodes, node: ast.Call, frame: Frame) -> None:
    """Fits the arguments to the patterns of the parameters. Notes in `renamed` what the caller calls each axis."""
    patterns = {p.name.text: p for p in made.definition.params if p.pattern is not None}
    own: dict[str, dict[str, str]] = {}
    for key, param in patterns.items():
        value = made.arguments.get(key)
        if isinstance(value, Value):
            own[key] = _matched(param, value, made.definition, nodes.get(key, node), frame)
    if not own:
        return
    common = _common(own, made, nodes, node, frame)
    foreign = _fresh(own, common, made, patterns)
    for key, bound in made.arguments.items():
        where = nodes.get(key, node)
        if isinstance(bound, Axes):
            made.arguments[key] = Axes(tuple({**foreign, **common}.get(n, n) for n in bound.names))
        if isinstance(bound, Value):
            names = {**foreign, **common, **own.get(key, {})}
            if key not in own:
                _check_clear(key, bound, own, node if key not in nodes else nodes[key], made, frame)
            made.arguments[key] = rename(bound, names, where, frame)
    used = {n: new for names in own.values() for n, new in names.items()}
    for old, new in {**foreign, **used}.items():
        if old != new:
            made.renamed[new] = old


def _matched(param: ast.Param, value: Value, definition: Definition, where: ast.Node, frame: Frame) -> dict[str, str]:
    """The last axes of a value, one for each of the pattern -> the names that the fn has for them."""
    assert param.pattern is not None
    want = [a.text for a in param.pattern.axes]
    many, few = len(value.names) > len(want), len(value.names) < len(want)
    if few or (many and not param.pattern.rest):
        message = f"'{definition.name.text}' takes {param.span.text.split('=')[0].strip()}, this is a {value.type}"
        frame.fail("E221", message, where, Note("the parameter", param.span), *frame.made(value))
    return dict(zip(value.names[len(value.names) - len(want) :], want, strict=True))


def _common(own: dict[str, dict[str, str]], made: Call, nodes: Nodes, node: ast.Call, frame: Frame) -> dict[str, str]:
    """The renaming that all patterns agree on. Two axes of the caller cannot be one axis of the fn."""
    common: dict[str, str] = {}
    backwards: dict[str, tuple[str, str]] = {}
    apart: set[str] = set()
    for key, names in own.items():
        for old, new in names.items():
            other, before = backwards.setdefault(new, (key, old))
            if before != old:
                message = (
                    f"'{made.name}' wants one axis '{new}' in '{other}' and '{key}', these have '{before}' and '{old}'"
                )
                frame.fail("E222", message, nodes.get(key, node), Note("declared here", made.definition.name.span))
            if common.setdefault(old, new) != new:
                apart.add(old)
    return {old: new for old, new in common.items() if old not in apart}


def _check_clear(
    key: str, value: Value, own: dict[str, dict[str, str]], where: ast.Node, made: Call, frame: Frame
) -> None:
    """An axis that two patterns call differently has no one name in a third argument."""
    for axis in value.names:
        inside = {names[axis] for names in own.values() if axis in names}
        if len(inside) > 1:
            message = f"axis '{axis}' of '{key}' would be " + " and ".join(f"'{n}'" for n in sorted(inside))
            frame.fail("E222", f"{message} in '{made.name}'", where, Note("declared here", made.definition.name.span))


def _fresh(
    own: dict[str, dict[str, str]], common: dict[str, str], made: Call, patterns: dict[str, ast.Param]
) -> dict[str, str]:
    """Fresh names for axes of the caller that the fn would take for its own."""
    expected = {new for names in own.values() for new in names.values()}
    values = {k: b for k, b in made.arguments.items() if isinstance(b, Value)}
    handled = {old for names in own.values() for old in names}
    created = set(_created(made.definition)) - expected if any(_has_rest(p) for p in patterns.values()) else set()
    taken = {n for v in values.values() for n in v.names} | expected | created
    foreign: dict[str, str] = {}
    for key, value in values.items():
        anonymous = key in patterns and _has_rest(patterns[key])
        for axis in value.names:
            clashes = axis in expected or (anonymous and axis in created)
            if axis in common or axis in handled or axis in foreign or not clashes:
                continue
            fresh = axis + "_"
            while fresh in taken:
                fresh += "_"
            taken.add(fresh)
            foreign[axis] = fresh
    return foreign


def _has_rest(param: ast.Param) -> bool:
    return param.pattern is not None and param.pattern.rest


def _created(definition: Definition) -> Iterator[str]:
    """The axes that the body of a fn makes or names in weights, splits, cuts and joins."""
    for node in statements.nodes(definition.body):
        match node:
            case ast.AxisDecl():
                yield node.axis.name
            case ast.AxisRef():
                yield node.name


def rename_out(bound: Bound, made: Call, node: ast.Call, frame: Frame) -> Bound:
    """The result with the caller's names of its axes."""
    if not isinstance(bound, Value):
        return bound
    names = {new: old for new, old in made.renamed.items() if new in bound.names}
    for old in names.values():
        if old in bound.names and old not in names:
            message = f"'{made.name}' gives back an axis '{old}' of its own beside the caller's '{old}'"
            frame.fail("E222", message, node, Note("declared here", made.definition.name.span))
    return rename(bound, names, node, frame)
