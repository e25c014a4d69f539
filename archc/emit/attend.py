"""Plain attention as a call of its kernel: queries, keys and values in groups, the window, the scale."""

from __future__ import annotations

from archc.emit.body import Body
from archc.emit.code import Code, infix
from archc.emit.kernels import ATTENTION, BOTH_WAYS
from archc.emit.layout import reindex, transposed
from archc.emit.placed import whole
from archc.ir.graph import Axis, Kind, Type, Value
from archc.passes.attention import Attention
from archc.text import ast


def attention(body: Body, value: Value, found: Attention) -> Code:
    """A call of the attention kernel, and the result with its own axes."""
    sizes = {**found.query.type.sizes, **found.value.type.sizes}
    group_axes = [n for n in found.query.names if n in found.groups]
    members = [n for n in found.query.names if n in found.members]
    q = _grouped(body, found.query, [group_axes, members, list(found.over)])
    k = _grouped(body, found.key, [group_axes, list(found.over)])
    v = _grouped(body, found.value, [group_axes, list(found.values)])
    scaled = found.weights.args[0]
    assert isinstance(scaled, Value)
    named = [f"scale={scale_text(body, scaled, found.scores).text}"]
    window = window_text(body, found)
    if window is not None:
        named.insert(0, f"window={window}")
    if found.causal:
        text = f"{body.kernel(ATTENTION)}({q.text}, {k.text}, {v.text}, pos, {body.old('kv')}, {', '.join(named)})"
        code = body.hoist(value, text, "kv", "attended")
    else:
        text = f"{body.kernel(BOTH_WAYS)}({q.text}, {k.text}, {v.text}, pos, {', '.join(named)})"
        code = body.named(value, text, "attended")
    parts = [group_axes, members, list(found.values)]
    made = Type(Kind.TOKEN, tuple(Axis(n, sizes[n]) for p in parts for n in p))
    in_order = made.axes == value.type.axes
    if in_order and all(len(p) == 1 for p in parts):
        return code
    body.lines[-1] = body.lines[-1].split("  # ")[0]
    shaped = code
    if len(parts[0]) + len(parts[1]) == 1 and len(parts[2]) == 1:
        shaped = body.dialect.squeeze(code, 3 if parts[0] else 2)
    elif any(len(p) != 1 for p in parts):
        shaped = body.dialect.reshape_tail(code, [body.size(a.name, a.size).text for a in made.axes])
    if not in_order:  # the spec may name the axes of queries in another order than those of values
        shaped = transposed(shaped, Value(-1, "param", (), made), list(value.names), body.dialect)
    body.line(f"{code.text} = {shaped.text}", value)
    return code


def _grouped(body: Body, value: Value, parts: list[list[str]]) -> Code:
    """A token as [B, T, part, part, ...]: axes of a part flattened, an empty part 1."""
    order = [n for p in parts for n in p]
    axes = tuple(next(a for a in value.type.axes if a.name == n) for n in order)
    code = reindex(whole(body, value), value, Type(Kind.TOKEN, axes), body.dialect)
    after = 0
    for part in reversed(parts):
        if len(part) > 1:
            code = body.dialect.flatten(code, len(part), after)
        after += bool(part)
    for place, part in enumerate(parts):
        if not part:
            code = body.dialect.unsqueeze(code, 2 + place)
    return code


def window_text(body: Body, found: Attention) -> str | None:
    """How many keys a query sees, as text; None for all of them."""
    mask = found.weights.args[1] if len(found.weights.args) > 1 else None
    if not isinstance(mask, Value):
        return None
    if not found.causal:  # a mask that admits all keys is part of the class, not a number that it is given
        return None
    for name, bound in body.call.arguments.items():
        if bound is mask:
            return body.numbers.symbol(name, "forward").text
    if found.window is None:
        return None
    node = body.call.nodes.get(mask)
    if isinstance(node, ast.Call) and isinstance(node.args[0].value, ast.Expr):
        return body.numbers.text(node.args[0].value, "forward").text
    return str(found.window)


def scale_text(body: Body, scaled: Value, scores: Value) -> Code:
    """The factor between scores and what products with numbers make of them, as the spec wrote it."""
    scale = Code("1.0")
    value = scaled
    while value is not scores:
        if value.op in ("mul", "div"):
            index = 0 if not isinstance(value.args[0], Value) else 1
            if not isinstance(value.args[index], Value):
                number = body.operand(value, index)
                scale = (
                    number
                    if value.op == "mul" and scale.text == "1.0"
                    else infix("*" if value.op == "mul" else "/", scale, number)
                )
        value = next(v for v in value.operands if v.kind is Kind.PAIR)
    return scale
