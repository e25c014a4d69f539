"""`loop` as text: the step body becomes a function of the tokens that it reads and of the states."""

from __future__ import annotations

from archc.emit.body import Body
from archc.emit.code import Code, python_name
from archc.emit.layout import reindex
from archc.emit.placed import sequence, whole
from archc.emit.statements import let
from archc.ir.graph import Kind, Operand, Region, Value, captures
from archc.text import ast


def render_loop(body: Body, value: Value) -> Code:
    """The function, the call of the kernel, and the states in the compute type; they keep the names of the spec."""
    node = next(s for s in body.call.definition.body if isinstance(s, ast.Loop) and s.span == value.origin.span)
    region: Region = value.attrs["body"]
    states = [python_name(s.name.text) for s in node.states]
    tokens = [v for v in captures(region) if v.kind is Kind.TOKEN and v.op != "pos"]
    codes = [whole(body, t).text for t in tokens]
    inputs = [body.names.get(t) or python_name(t.label or f"input_{i}") for i, t in enumerate(tokens)]
    outs = _used_outs(body, value)
    extra = [i for i in outs if i >= len(states)]
    key = f"loop_{node.states[0].name.text}"
    saved, names = body.lines, dict(body.names)
    body.lines, body.sliced = [], frozenset(tokens)
    body.line(f"{_tuple(inputs)} = inputs")
    body.line(f"{_tuple(states)} = states")
    body.names.update(dict(zip(tokens, inputs, strict=True)))
    for state, param in zip(states, region.params, strict=True):
        body.bind(param, state)
    for statement in node.body:
        body.statement = statement
        if isinstance(statement, ast.Let):
            let(body, statement)
    given = [
        reindex(body.render(r), r, p.type, body.dialect).text
        for r, p in zip(region.results, region.params, strict=False)
    ]
    given += [body.render(region.results[i]).text for i in extra]
    body.line(f"return {', '.join(given)}{',' if len(given) == 1 else ''}")
    body.sliced = frozenset()
    inner, body.lines, body.names = [line.replace("# [B, T", "# [B") for line in body.lines], saved, names
    body.statement = node
    body.lines += ["", "def step(inputs, states):", *(f"    {line}" for line in inner), ""]
    starts = _tuple([_start(body, a, p).text for a, p in zip(value.args, region.params, strict=True)])
    results = _tuple([*states, *(python_name(region.results[i].label) for i in extra)])
    new = f'new["{key}"]' if body.unit.has_state else "_"
    old = body.old(key) if body.unit.has_state else "None"
    body.kernel("loop")
    body.line(f"{results}, {new} = loop(step, {_tuple(codes)}, {starts}, pos, {old})")
    for index, out in outs.items():
        name = states[index] if index < len(states) else python_name(region.results[index].label)
        if region.results[index].type.wide:
            body.line(f"{name} = {body.narrow(Code(name)).text}", out)
        body.bind(out, name)
    return Code(states[0])


def _used_outs(body: Body, value: Value) -> dict[int, Value]:
    """The names of the loop that something reads afterwards, by their place among the results of the body."""
    region = body.fused.regions[body.call]
    users = region.users.get(value, ())
    return {u.attrs["index"]: u for u in users if u.op == "loop_out"}


def _start(body: Body, start: Operand, param: Value) -> Code:
    """The start of a state: [B, *axes]."""
    if isinstance(start, Value):
        code = reindex(body.render(start), start, param.type, body.dialect)
        sizes = [body.size(a.name, a.size) for a in param.type.axes]
        code = code if start.kind is Kind.WEIGHT else Code(f"{code.atom}[:, 0]")
        return body.dialect.start(code, sequence(body), sizes)
    return body.dialect.start(Code(str(start)), sequence(body), [body.size(a.name, a.size) for a in param.type.axes])


def _tuple(parts: list[str]) -> str:
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
