"""`loop`: any step body; the states after the loop hold their values per token."""

from __future__ import annotations

from collections.abc import Set

from archc.elaborate.axes import declared_axes
from archc.elaborate.bound import Scope
from archc.elaborate.builder import Builder
from archc.elaborate.frame import Frame
from archc.ir.graph import Kind, Operand, Type, Value
from archc.text import ast


def run(statement: ast.Loop, frame: Frame, later: Set[str]) -> None:
    """Elaborates the body once, as a region whose parameters are the states.

    Afterwards the states, and those other names of the body that are read later, hold their values per token.
    """
    builder = Builder("loop", frame.shelf.ids, frame.builder)
    inner = frame.at(builder=builder, scope=Scope(frame.scope))
    starts: list[Operand] = []
    for state in statement.states:
        starts.append(_start(state, frame))
        kind = Type(Kind.TOKEN, declared_axes(state.axes, frame), "real", True)
        inner.scope.names[state.name.text] = inner.param(state.name.text, kind, state)
    inner.walker.body(statement.body, inner)
    names = [state.name.text for state in statement.states]
    results = [_end(s, p, inner) for s, p in zip(statement.states, builder.params, strict=True)]
    others = {n: v for n, v in inner.scope.names.items() if n in later and n not in names and isinstance(v, Value)}
    states = tuple(frame.call.instance.state(n) for n in names)
    attrs = {"body": builder.finish((*results, *others.values())), "states": states}
    loop = frame.add("loop", tuple(starts), statement, attrs)
    for index, name in enumerate([*names, *others]):
        frame.scope.names[name] = frame.add("loop_out", (loop,), statement, {"index": index}, label=name)


def _start(state: ast.LoopState, frame: Frame) -> Operand:
    """The value of a state before the first token: of tokens or weights, with no axis that the state lacks."""
    if state.start is None:
        return 0
    start = frame.operand(frame.walker.evaluate(state.start, frame), state.start, "the start of a state")
    if isinstance(start, Value):
        sizes = {a.name: a.size for a in declared_axes(state.axes, frame)}
        if any(sizes.get(a.name) != a.size for a in start.type.axes) or start.kind not in (Kind.WEIGHT, Kind.TOKEN):
            have = " ".join(f"{n}={s}" for n, s in sizes.items())
            frame.fail(
                "E230", f"state '{state.name.text}' is a token[{have}] and starts as a {start.type}", state.start
            )
    return start


def _end(state: ast.LoopState, param: Value, inner: Frame) -> Value:
    """What the body leaves in a state: the axes that it had."""
    name = state.name.text
    if inner.scope.names[name] is param:
        inner.fail("E230", f"the body never assigns its state '{name}'", state, help=f"write {name} = ... in it")
    result = inner.value(inner.scope.names[name], state, f"the state '{name}'")
    if result.type.sizes != param.type.sizes:
        inner.fail(
            "E230", f"state '{name}' begins as a {param.type} and ends as a {result.type}", state, *inner.made(result)
        )
    return result
