"""Calls of fns: arguments to parameters, axes renamed on the way in and back, a new instance for every call."""

from __future__ import annotations

from archc.diagnostics import ArchError, Note, closest
from archc.elaborate.axes import axis_names
from archc.elaborate.bound import Axes, Bound, Function, Instance, Poison, Scope, SharedFunction
from archc.elaborate.call import Call, Definition
from archc.elaborate.frame import Frame
from archc.elaborate.weights import rename
from archc.ir.graph import Kind, Value
from archc.text import ast

AXES_PARAMETERS = frozenset({"over", "per"})


def arguments(
    node: ast.Call, params: tuple[ast.Param, ...], definition: Definition, frame: Frame
) -> tuple[dict[str, Bound], dict[str, ast.Node]]:
    """The arguments by parameter, evaluated in the caller; and the node of each."""
    names = [p.name.text for p in params]
    given: dict[str, Bound] = {}
    nodes: dict[str, ast.Node] = {}
    position = 0
    for arg in node.args:
        if isinstance(arg.value, ast.Arrow):
            frame.fail("E105", f"'{definition.name.text}' takes no '->'", arg)
        if arg.name is not None:
            key = arg.name.text
            if key not in names:
                hint = closest(key, names)
                frame.fail(
                    "E103",
                    f"'{definition.name.text}' has no parameter '{key}'" + (f"; {hint}" if hint else ""),
                    arg.name,
                    Note("declared here", definition.name.span),
                    help=f"it has: {', '.join(names) or 'none'}",
                )
        else:
            if position >= len(names):
                frame.fail(
                    "E106",
                    f"'{definition.name.text}' takes {len(names)} arguments",
                    arg,
                    Note("declared here", definition.name.span),
                )
            key = names[position]
            position += 1
        if key in given:
            frame.fail("E107", f"parameter '{key}' is given twice", arg, Note("first here", nodes[key].span))
        inner = frame.at(wide=False)
        given[key] = axis_names(arg.value, inner) if key in AXES_PARAMETERS else frame.walker.evaluate(arg.value, inner)
        nodes[key] = arg
    return given, nodes


def apply(target: Function | SharedFunction, node: ast.Call, frame: Frame) -> Bound:
    """Calls a fn: elaborates its body in a scope of its own."""
    function = target.function if isinstance(target, SharedFunction) else target
    definition = function.definition
    given, nodes = arguments(node, definition.params, definition, frame)
    if isinstance(target, SharedFunction):
        given = {**target.given, **given}
        instance = target.instance
        instance.counts.clear()
    else:
        instance = frame.call.instance.child(node.label.text if node.label else definition.name.text)
    made = Call(definition, instance, arguments=given)
    scope = Scope(function.scope, closed=True)
    if len(frame.sites) > 60:
        frame.fail("E108", f"'{definition.name.text}' calls itself without end", node, help="there is no recursion")
    inner = frame.at(scope=scope, call=made, sites=(*frame.sites, node.span), wide=False, target="")
    _rename_in(made, definition, nodes, node, frame)
    _bind(made, definition, scope, inner, node, frame)
    result = frame.walker.body(definition.body, inner)
    if result is None:
        frame.fail("E109", f"'{definition.name.text}' returns nothing", node, Note("declared here", definition.name.span))
    made.returned = tuple(_narrow(r, made, inner, definition) for r in result)
    unused(definition, scope, frame, inner)
    made.results = tuple(_rename_out(r, made, node, frame) for r in made.returned)
    frame.call.calls[node] = made
    return made.results[0] if len(made.results) == 1 else made.results


def _rename_in(
    made: Call, definition: Definition, nodes: dict[str, ast.Node], node: ast.Call, frame: Frame
) -> None:
    """Fits the arguments to the patterns of the parameters: the caller's axes get the names that the fn expects."""
    forward: dict[str, str] = {}
    for param in definition.params:
        value = made.arguments.get(param.name.text)
        if param.pattern is None or not isinstance(value, Value):
            continue
        want = [a.text for a in param.pattern.axes]
        where = nodes.get(param.name.text, node)
        many, few = len(value.names) > len(want), len(value.names) < len(want)
        if few or (many and not param.pattern.rest):
            pattern = " ".join([".."] * param.pattern.rest + want)
            _misfit(param, f"{param.name.text}[{pattern}]", value, definition, where, frame)
        before = value.names[: len(value.names) - len(want)]
        have = value.names[len(value.names) - len(want) :]
        for old, new in zip(have, want, strict=True):
            if new in before:
                frame.fail(
                    "E222",
                    f"axis '{new}' of the argument would be taken for the '{new}' of '{definition.name.text}'",
                    where,
                    Note("the parameter", param.span),
                    help=f"the pattern names '{old}' here; rename one of the two",
                )
            if old != new:
                forward[old] = new
                made.renamed[new] = old
        made.arguments[param.name.text] = rename(value, dict(zip(have, want, strict=True)), where, frame)
    for key, bound in made.arguments.items():
        if isinstance(bound, Axes):
            made.arguments[key] = Axes(tuple(forward.get(n, n) for n in bound.names))


def _misfit(
    param: ast.Param, pattern: str, value: Value, definition: Definition, where: ast.Node, frame: Frame
) -> None:
    frame.fail(
        "E221",
        f"'{definition.name.text}' takes {pattern}, this is a {value.type}",
        where,
        Note("the parameter", param.span),
        *origin_notes(value),
    )


def origin_notes(value: Value) -> tuple[Note, ...]:
    """Where a value was made, as a note."""
    if value.origin.span is None:
        return ()
    return (Note(f"{value.label or 'the value'} is made here", value.origin.span),)


def _bind(made: Call, definition: Definition, scope: Scope, inner: Frame, node: ast.Node, frame: Frame) -> None:
    """Puts every parameter into the scope; defaults are evaluated there, in order."""
    for param in definition.params:
        key = param.name.text
        if key not in made.arguments:
            if param.default is None:
                frame.fail(
                    "E110", f"'{definition.name.text}' needs '{key}'", node, Note("the parameter", param.span)
                )
            made.defaulted.add(key)
            if key in AXES_PARAMETERS:
                made.arguments[key] = axis_names(param.default, inner)
            else:
                made.arguments[key] = inner.walker.evaluate(param.default, inner)
        bound = made.arguments[key]
        if isinstance(bound, Value) and not bound.label:
            bound.label = key
        scope.names[key] = bound


def _narrow(bound: Bound, made: Call, inner: Frame, definition: Definition) -> Bound:
    """A fn that was given values in the compute type gives back the compute type: islands end at its return."""
    if not isinstance(bound, Value) or not bound.type.wide or bound.kind is Kind.WEIGHT:
        return bound
    values = [v for v in made.arguments.values() if isinstance(v, Value) and v.type.dtype == "real"]
    tokens = [v for v in values if v.kind is not Kind.WEIGHT]
    if not tokens or any(v.type.wide for v in values):
        return bound
    return inner.add("narrow", (bound,), definition.name, label=bound.label)


def _rename_out(bound: Bound, made: Call, node: ast.Call, frame: Frame) -> Bound:
    if not isinstance(bound, Value):
        return bound
    names = {new: old for new, old in made.renamed.items() if new in bound.names}
    value = rename(bound, names, node, frame)
    if value is bound and value.label:
        return value
    return value


def unused(definition: Definition, scope: Scope, frame: Frame, inner: Frame) -> None:
    """Refuses names that nothing reads: a misspelt use or a forgotten term. Quiet while something else is wrong."""
    if frame.shelf.diagnostics:
        return
    for param in definition.params:
        key = param.name.text
        sized = param.pattern is not None and any(a.text in scope.used for a in param.pattern.axes)
        if key not in scope.used and not sized and not key.startswith("_"):
            _report_unused(f"parameter '{key}' of '{definition.name.text}'", param, inner)
    for statement in definition.body:
        if isinstance(statement, ast.Let):
            for ident in statement.targets:
                bound = scope.names.get(ident.text)
                if ident.text not in scope.used and not isinstance(bound, Poison) and not ident.text.startswith("_"):
                    _report_unused(f"'{ident.text}'", ident, inner)


def _report_unused(what: str, node: ast.Node, frame: Frame) -> None:
    try:
        frame.fail("E111", f"nothing uses {what}", node, help="remove it, use it, or begin its name with _")
    except ArchError as failed:
        frame.shelf.report(failed)


def share(statement: ast.Shared, frame: Frame) -> None:
    """`shared f = name(...)`: one instance for many calls."""
    target = frame.scope.find_callable(statement.call.callee.text)
    if not isinstance(target, Function):
        hint = closest(statement.call.callee.text, frame.scope.visible())
        frame.fail(
            "E101",
            f"unknown function '{statement.call.callee.text}'" + (f"; {hint}" if hint else ""),
            statement.call.callee,
        )
    for arg in statement.call.args:
        if arg.name is None:
            frame.fail("E112", "'shared' binds named arguments only", arg, help="write name = value")
    given, _ = arguments(statement.call, target.definition.params, target.definition, frame)
    name = statement.name.text
    frame.scope.names[name] = SharedFunction(target, given, Instance(frame.call.instance.below(name)))
    frame.call.shared[name] = statement
