"""`loop`: any step body; the states after the loop hold their values per token."""

from __future__ import annotations

from archc.diagnostics import Note
from archc.elaborate.axes import declared_axes
from archc.elaborate.bound import Scope
from archc.elaborate.frame import Builder, Frame
from archc.ir.graph import Kind, Operand, Type, Value
from archc.text import ast


def run(statement: ast.Loop, frame: Frame) -> None:
    """Elaborates the body once, as a region whose parameters are the states."""
    builder = Builder("loop", frame.shelf.ids, frame.builder)
    inner = frame.at(builder=builder, scope=Scope(frame.scope))
    starts: list[Operand] = []
    for state in statement.states:
        start: Operand = 0
        if state.start is not None:
            start = frame.operand(frame.walker.evaluate(state.start, frame), state.start, "the start of a state")
        starts.append(start)
        kind = Type(Kind.TOKEN, declared_axes(state.axes, frame), "real", True)
        inner.scope.names[state.name.text] = inner.param(state.name.text, kind, state)
    inner.walker.body(statement.body, inner)
    names = [state.name.text for state in statement.states]
    results: list[Value] = []
    for state, param in zip(statement.states, builder.params, strict=True):
        result = inner.value(inner.scope.names[state.name.text], state, f"the state '{state.name.text}'")
        if result.type.sizes != param.type.sizes:
            frame.fail(
                "E230",
                f"state '{state.name.text}' begins as a {param.type} and ends as a {result.type}",
                state,
                *((Note("made here", result.origin.span),) if result.origin.span else ()),
            )
        results.append(result)
    others = [n for n, v in inner.scope.names.items() if n not in names and isinstance(v, Value)]
    for other in others:
        bound = inner.scope.names[other]
        assert isinstance(bound, Value)
        results.append(bound)
    states = tuple(frame.call.instance.state(n) for n in names)
    attrs = {"body": builder.finish(tuple(results)), "states": states}
    loop = frame.add("loop", tuple(starts), statement, attrs)
    for index, name in enumerate([*names, *others]):
        frame.scope.names[name] = frame.add("loop_out", (loop,), statement, {"index": index}, label=name)
    frame.scope.used |= inner.scope.used
