"""Calls of fns: arguments to parameters, a scope and an instance of weights for every call."""

from __future__ import annotations

from archc.diagnostics import Note, Span, closest
from archc.elaborate import names, statements
from archc.elaborate.attributes import attribute
from archc.elaborate.axes import axis_names
from archc.elaborate.bound import Axes, Bound, Function, Instance, Poison, Scope, SharedFunction
from archc.elaborate.call import Call, Definition
from archc.elaborate.frame import Frame, Poisoned
from archc.elaborate.hygiene import rename_in, rename_out
from archc.ir.graph import Kind, Value
from archc.text import ast

AXES_PARAMETERS = frozenset({"over", "per"})
DEEPEST = 40
"""How many calls may stand inside one another; no spec needs a quarter of it, a recursion reaches it."""


def arguments(
    node: ast.Call, params: tuple[ast.Param, ...], definition: Definition, frame: Frame
) -> tuple[dict[str, Bound], dict[str, ast.Node]]:
    """The arguments by parameter, evaluated in the caller; and the node of each."""
    name = definition.name.text
    known = [p.name.text for p in params]
    declared = Note("declared here", definition.name.span)
    given: dict[str, Bound] = {}
    nodes: dict[str, ast.Node] = {}
    position = 0
    for arg in node.args:
        if isinstance(arg.value, ast.Arrow):
            frame.fail("E105", f"'{name}' takes no '->'", arg, declared)
        if arg.name is not None:
            key = arg.name.text
            if key not in known:
                hint = closest(key, known)
                message = f"'{name}' has no parameter '{key}'" + (f"; {hint}" if hint else "")
                frame.fail("E103", message, arg.name, declared, help=f"it has: {', '.join(known) or 'none'}")
        else:
            if position >= len(known):
                plural = "" if len(known) == 1 else "s"
                message = f"'{name}' takes {len(known)} argument{plural}, this is one more"
                help = f"it has: {', '.join(known) or 'none'}"
                if isinstance(definition, ast.BlockDef):  # called as if it were a fn, perhaps
                    help += f"; streams reach a block through stack(x, depth, [{name}])"
                frame.fail("E106", message, arg, declared, help=help)
            key = known[position]
            position += 1
        if key in given:
            frame.fail("E107", f"parameter '{key}' is given twice", arg, Note("first here", nodes[key].span))
        given[key] = argument(key, arg.value, frame.at(wide=False))
        nodes[key] = arg.value
    return given, nodes


def argument(key: str, node: ast.Expr, frame: Frame) -> Bound:
    """An argument: `over` and `per` take axes, everything else an expression."""
    bound: Bound = axis_names(node, frame) if key in AXES_PARAMETERS else frame.walker.evaluate(node, frame)
    if isinstance(bound, tuple):
        frame.fail("E212", f"one argument for {len(bound)} values", node, help="name them first: a, b = ...")
    return bound


def apply(target: Function | SharedFunction, node: ast.Call, frame: Frame) -> Bound:
    """Calls a fn: elaborates its body in a scope of its own."""
    function = target.function if isinstance(target, SharedFunction) else target
    definition = function.definition
    name = definition.name.text
    if len(frame.sites) > DEEPEST:
        if node.span in frame.sites:
            frame.fail("E108", f"'{name}' calls itself without end", node, help="a spec has no recursion")
        frame.fail("E108", f"more than {DEEPEST} calls inside one another", node, help="write some of the fns out")
    if frame.builder.name == "init":
        frame.fail("E117", f"'{name}' is called in an initial value", node, help="write it with builtins")
    instance = _instance(target, node, frame)
    given, nodes = arguments(node, definition.params, definition, frame)
    if isinstance(target, SharedFunction):
        given = {**target.given, **given}
    made = Call(definition, instance, arguments=given)
    scope = Scope(function.scope, closed=True)
    home = frame.shelf.homes[instance.path] if isinstance(target, SharedFunction) else frame.home
    inner = frame.at(scope=scope, call=made, sites=(*frame.sites, node.span), wide=False, target="", home=home)
    statements.check(definition, inner)
    rename_in(made, nodes, node, frame)
    bind(made, scope, inner, node, frame)
    result = frame.walker.body(definition.body, inner)
    if result is None:
        frame.fail("E109", f"'{name}' returns nothing", node, Note("declared here", definition.name.span))
    made.returned = tuple(_narrow(r, made, inner) for r in result)
    names.report_unused(definition, inner)
    made.results = tuple(rename_out(r, made, node, frame) for r in made.returned)
    frame.call.calls[node] = made
    return made.results[0] if len(made.results) == 1 else made.results


def _instance(target: Function | SharedFunction, node: ast.Call, frame: Frame) -> Instance:
    """The scope of weights of a call: a new one, or the one that a shared fn keeps."""
    if isinstance(target, SharedFunction):
        if node.label is not None:
            frame.fail("E113", f"'{node.callee.text}' is shared: its instance has a name already", node.label)
        if target.instance.children or target.instance.weights:
            target.instance.rewind()
        return target.instance
    name = node.label or target.definition.name
    made = frame.call.instance.child(attribute(name.text), label=node.label is not None)
    if made is None:
        where = node.label or node.callee
        help = "choose another label" if node.label else "label the call: other_name: f(...)"
        frame.fail("E116", f"the name '{name.text}' is taken by another call or weight here", where, help=help)
    return made


def bind(made: Call, scope: Scope, inner: Frame, node: ast.Node | Span, frame: Frame) -> None:
    """Puts every parameter into the scope; defaults are evaluated there, in order."""
    for param in made.definition.params:
        key = param.name.text
        if key not in made.arguments:
            if param.default is None:
                message = f"'{made.name}' needs '{key}'"
                frame.fail("E110", message, node, Note("the parameter", param.span))
            made.defaulted.add(key)
            made.arguments[key] = argument(key, param.default, inner)
        bound = made.arguments[key]
        if isinstance(bound, Poison):
            raise Poisoned
        if isinstance(bound, Value) and not bound.label:
            bound.label = key
        scope.names[key] = bound


def _narrow(bound: Bound, made: Call, inner: Frame) -> Bound:
    """A fn that was given values in the compute type gives back the compute type: islands end at its return."""
    if not isinstance(bound, Value) or not bound.type.wide or bound.kind is Kind.WEIGHT:
        return bound
    values = [v for v in made.arguments.values() if isinstance(v, Value) and v.type.dtype == "real"]
    tokens = [v for v in values if v.kind is not Kind.WEIGHT]
    if not tokens or any(v.type.wide for v in values):
        return bound
    return inner.add("narrow", (bound,), made.definition.name, label=bound.label)


def share(statement: ast.Shared, frame: Frame) -> None:
    """`shared f = name(...)`: one instance for many calls; its weights belong to the region where it is declared."""
    call = statement.call
    target = frame.scope.find_callable(call.callee.text)
    if not isinstance(target, Function):
        names.unknown(call.callee.text, "fn", frame.scope.callables(), call.callee, frame)
    for arg in call.args:
        if arg.name is None:
            frame.fail("E112", "'shared' binds named arguments only", arg, help="write name = value")
    given, _ = arguments(call, target.definition.params, target.definition, frame)
    for key, bound in given.items():
        if isinstance(bound, Axes | Value) and not (
            isinstance(bound, Value) and bound.kind in (Kind.WEIGHT, Kind.PAIR)
        ):
            frame.fail("E112", f"'shared' binds numbers, weights, masks and fns, not '{key}'", call)
    name = statement.name.text
    instance = frame.call.instance.child(attribute(name), label=True)
    if instance is None:
        frame.fail("E116", f"the name '{name}' is taken by another call or weight here", statement.name)
    frame.shelf.homes[instance.path] = frame.home or frame.builder.outside
    frame.scope.names[name] = SharedFunction(target, given, instance)
    frame.call.shared[name] = statement
