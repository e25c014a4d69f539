"""Renders the statements of a unit in the order of the spec: names, cuts, stacks of layers, results."""

from __future__ import annotations

from archc.elaborate.bound import Bound
from archc.emit.body import Body
from archc.emit.calls import call_text, state_name
from archc.emit.code import Code, python_name
from archc.emit.layout import axis_of
from archc.emit.placed import whole
from archc.emit.stable import opened
from archc.emit.units import own_values
from archc.ir.graph import Kind, Value
from archc.text import ast


def run_statements(body: Body) -> None:
    """Renders every statement of the unit."""
    for statement in body.call.definition.body:
        body.statement = statement
        match statement:
            case ast.Let():
                let(body, statement)
            case ast.Loop():
                loop = _loop_value(body, statement)
                if loop not in body.fused.absorbed:
                    body.rules["loop"](body, loop)
            case ast.Return():
                _return(body)
            case _:
                pass
    body.statement = None


def _loop_value(body: Body, statement: ast.Loop) -> Value:
    """Of this call alone: others of the fn have the statement, too, and may lie in the same region."""
    alike = [v for v in body.fused.regions[body.call].values if v.op == "loop" and v.origin.span == statement.span]
    own = {v.origin.calls for v in own_values(body.call)}
    return next(v for v in alike if v.origin.calls in own)


def let_pairs(body: Body, statement: ast.Let) -> None:
    """A statement that names a pair, inside of its program."""
    bound = body.call.facts[statement.value]
    assert isinstance(bound, Value)
    if bound.op == "mask":
        return
    name = python_name(statement.targets[0].text)
    body.line(f"{name} = {body.render(bound).text}", bound)
    body.bind(bound, name)


def let(body: Body, statement: ast.Let) -> None:
    """A statement that names what it computes."""
    bound = body.call.facts[statement.value]
    names = [python_name(t.text) for t in statement.targets]
    if isinstance(bound, Value):
        if bound in body.fused.absorbed or bound.kind is Kind.PAIR or _in_norm(body, bound):
            return
        if bound in body.names and body.names[bound] != names[0]:
            body.line(f"{names[0]} = {body.names[bound]}", bound)
            body.bind(bound, names[0])
            return
        if opened(body, bound, names[0]):
            return
        code = body.render(bound)
        if code.text != names[0]:
            body.line(f"{names[0]} = {code.text}", bound)
        body.bind(bound, names[0])
    elif isinstance(bound, tuple):
        _unpack(body, statement, bound, names)


def _in_norm(body: Body, value: Value) -> bool:
    return body.dialect.own_norms and any(value in n.inside for n in body.fused.norms.values())


def _unpack(body: Body, statement: ast.Let, bound: tuple[Bound, ...], names: list[str]) -> None:
    values = [b for b in bound if isinstance(b, Value)]
    if values[0].op == "stack_out":
        run_stack(body, values[0])
        return
    if values[0].op == "slice" and values[0] not in body.results:
        kept = [(n, v) for n, v in zip(names, values, strict=True) if v.attrs["size"]]
        if len(kept) == 1:
            ((name, value),) = kept
            body.line(f"{name} = {body.render(value.operands[0]).text}", value)
            body.bind(value, name)
            return
        body.line(f"{', '.join(n for n, _ in kept)} = {_cut(body, [v for _, v in kept]).text}", kept[0][1])
        for name, value in kept:
            body.bind(value, name)
        return
    node = next((body.results[v][0] for v in values if v in body.results), None)
    if node is None:  # a fn gave back what it was given
        body.line(f"{', '.join(names)} = {', '.join(body.render(v).text for v in values)}", values[0])
        for name, value in zip(names, values, strict=True):
            body.bind(value, name)
        return
    text, unit = call_text(body, node)
    state = f', new["{state_name(body, node)}"]' if unit.has_state else ""
    left = ", ".join(names)
    body.line(f"({left}){state} = {text}" if state else f"{left} = {text}", values[0])
    for name, value in zip(names, values, strict=True):
        body.bind(value, name)


def _cut(body: Body, pieces: list[Value]) -> Code:
    """One axis cut into the pieces that are not empty."""
    inner = pieces[0].operands[0]
    sizes = [body.size(v.attrs["into"], v.attrs["size"]) for v in pieces]
    return body.dialect.pieces(body.render(inner), sizes, axis_of(inner, pieces[0].attrs["axis"]))


def _return(body: Body) -> None:
    _give(body, [body.render(v).text for v in body.call.returned if isinstance(v, Value)])


def _give(body: Body, texts: list[str]) -> None:
    text = ", ".join(texts)
    if body.unit.has_state:
        text = f"({text}), new" if len(texts) > 1 else f"{text}, new"
    body.line(f"return {text}")


def give_back(body: Body, names: list[str]) -> None:
    """Ends a block or a model: its results, under the names of the streams if there are any."""
    values = [v for v in body.call.results if isinstance(v, Value)]
    for name, value in zip(names, values, strict=False):
        code = body.render(value)
        if code.text != name:
            body.line(f"{name} = {code.text}", value)
    _give(body, names or [body.render(v).text for v in values])


def run_stack(body: Body, value: Value) -> Code:
    """Runs the layers of a stack; gives back one of its streams."""
    node, stack = next((n, s) for n, s in body.call.stacks.items() if s.value is value.operands[0])
    fact = body.call.facts[node]
    outs = [o for o in (fact if isinstance(fact, tuple) else (fact,)) if isinstance(o, Value)]
    if value not in body.names:
        streams = [whole(body, s) for s in stack.value.operands]
        units = [body.units.of[c] for c in stack.calls]
        extras = body.units.extras[units[0]]
        extra = [f"self.{v}" if isinstance(v, str) else body.render(v).text for v in extras.values()]
        args = [*(s.text for s in streams), *extra]
        if any(u.needs_pos for u in units):
            args.append("pos")
        name = stack.layers[0].prefix.rsplit(".", 1)[0]
        names = [python_name(stream) for stream in stack.streams]
        left = ", ".join(names)
        if any(u.has_state for u in units):
            left = f"({left})" if len(outs) > 1 else left
            body.line(f'{left}, new["{name}"] = self.run_{name}({", ".join([*args, body.old(name)])})', value)
        else:
            body.line(f"{left} = self.run_{name}({', '.join(args)})", value)
        for out, stream in zip(outs, names, strict=True):
            body.bind(out, stream)
    return Code(body.names[value])
