"""`stack`: the pattern of layers. Each distinct pair of block and arguments is elaborated once."""

from __future__ import annotations

from dataclasses import dataclass

from archc.diagnostics import Note
from archc.elaborate import functions
from archc.elaborate.bound import Axes, BlockUse, Bound, Builtin, Function, Instance, Num, Poison, Repeated, Replaced, Scope
from archc.elaborate.call import Call, Stack
from archc.elaborate.frame import Builder, Frame, Poisoned, describe
from archc.elaborate.weights import finish_weights
from archc.ir.graph import Layer, Region, Value
from archc.text import ast


@dataclass(frozen=True, eq=False)
class Plan:
    """Which block runs at which layer; `period` is the length of the repeated list."""

    blocks: tuple[BlockUse, ...]
    period: int


def run(node: ast.Call, frame: Frame) -> Bound:
    """Elaborates `stack(x, ..., depth, [...])`; gives back the streams."""
    args = [a.value for a in node.args]
    if len(args) < 3 or not isinstance(args[-1], ast.ListExpr) or any(a.name for a in node.args):
        frame.fail("E106", "'stack' is not called like this", node, help="write stack(x, depth, [block, ...])")
    *streams, depth, entries = (a for a in args if isinstance(a, ast.Expr))
    assert isinstance(entries, ast.ListExpr)
    values = [frame.value(frame.walker.evaluate(s, frame), s, "a stream") for s in streams]
    count = frame.whole(frame.walker.evaluate(depth, frame), depth, "the depth")
    if count < 1:
        frame.fail("E232", f"a stack of {count} layers", depth)
    names = tuple("x" if i == 0 else s.text if isinstance(s, ast.Name) else f"x{i}" for i, s in enumerate(streams))
    plan = make_plan(entries, count, frame)
    made = [_layer(i, use, values, names, node, frame) for i, use in _distinct(plan, frame)]
    by_key = {key: built for key, built in zip(_keys(plan), made, strict=True)}
    keyed = _layer_keys(plan)
    instance = frame.call.instance.child("layers" if node.label is None else node.label.text)
    layers = tuple(
        Layer(i, plan.blocks[i].definition.name.text, f"{instance.path}.{i}", by_key[keyed[i]][0])
        for i in range(count)
    )
    stack = frame.add("stack", tuple(values), node, {"layers": layers})
    calls = tuple(by_key[keyed[i]][1] for i in range(count))
    frame.call.stacks[node] = Stack(node, stack, names, layers, calls, plan.period)
    outs: tuple[Bound, ...] = tuple(
        frame.add("stack_out", (stack,), node, {"index": i}, label=names[i]) for i in range(len(values))
    )
    return outs[0] if len(outs) == 1 else outs


def make_plan(entries: ast.ListExpr, count: int, frame: Frame) -> Plan:
    """The list repeated to the depth, then the overrides."""
    flat: list[BlockUse] = []
    replaced: list[Replaced] = []
    for entry in entries.entries:
        bound = _entry(entry, frame)
        match bound:
            case BlockUse():
                flat.append(bound)
            case Repeated():
                flat += [bound.entry] * bound.times
            case Replaced():
                replaced.append(bound)
    if not flat:
        frame.fail("E233", "a stack without blocks", entries, help="list at least one block")
    blocks = [flat[i % len(flat)] for i in range(count)]
    for each in replaced:
        for index in _indices(each, count, frame):
            blocks[index] = each.entry
    return Plan(tuple(blocks), len(flat))


def _entry(entry: ast.Expr, frame: Frame) -> BlockUse | Repeated | Replaced:
    if isinstance(entry, ast.Override):
        from archc.elaborate.walk import override

        return override(entry, frame)
    bound = frame.walker.evaluate(entry, frame)
    if isinstance(bound, BlockUse | Repeated):
        return bound
    if isinstance(bound, Poison):
        raise Poisoned
    frame.fail("E214", f"a stack holds blocks, this is {describe(bound)}", entry)


def _indices(each: Replaced, count: int, frame: Frame) -> list[int]:
    numbers = [frame.whole(n, each.node.where, "a layer") for n in each.numbers]
    if each.how != "at":
        if len(numbers) != 1 or not 0 <= numbers[0] <= count:
            frame.fail("E234", f"{each.how}(...) takes one number of layers from 0 to {count}", each.node.where)
        return list(range(numbers[0])) if each.how == "first" else list(range(count - numbers[0], count))
    for number in numbers:
        if not 0 <= number < count:
            roots = tuple(r.note for n in each.numbers for r in n.roots)
            frame.fail(
                "E234",
                f"there is no layer {number}: the stack has layers 0 to {count - 1}",
                each.node.where,
                *roots,
            )
    return numbers


# --- distinct layers ---------------------------------------------------------------------------------


def _uses_layer(definition: ast.BlockDef) -> bool:
    return any(isinstance(n, ast.Name) and n.text == "layer" for n in definition.walk())


def argument_key(bound: Bound) -> object:
    """Equal keys mean equal arguments: masks and numbers by content, values by identity."""
    match bound:
        case Num():
            return ("number", bound.value)
        case Value(op="mask"):
            return ("mask", bound.attrs["name"], bound.attrs["sizes"])
        case Axes():
            return ("axes", bound.names)
        case Builtin():
            return ("builtin", bound.name)
        case Function():
            return ("fn", id(bound.definition))
    return ("one", id(bound))


def _layer_keys(plan: Plan) -> list[object]:
    keys: list[object] = []
    for index, use in enumerate(plan.blocks):
        given = tuple(sorted((k, repr(argument_key(v))) for k, v in use.given.items()))
        keys.append((id(use.definition), given, index if _uses_layer(use.definition) else None))
    return keys


def _keys(plan: Plan) -> list[object]:
    return list(dict.fromkeys(_layer_keys(plan)))


def _distinct(plan: Plan, frame: Frame) -> list[tuple[int, BlockUse]]:
    keys = _layer_keys(plan)
    return [(keys.index(key), plan.blocks[keys.index(key)]) for key in dict.fromkeys(keys)]


def _layer(
    index: int, use: BlockUse, streams: list[Value], names: tuple[str, ...], node: ast.Call, frame: Frame
) -> tuple[Region, Call]:
    """Elaborates one block with its arguments as a region."""
    definition = use.definition
    builder = Builder(definition.name.text, frame.shelf.ids)
    made = Call(definition, Instance(""), arguments=dict(use.given))
    scope = Scope(use.scope)
    site = use.site.span if use.site is not None else node.span
    inner = frame.at(builder=builder, scope=scope, call=made, sites=(*frame.sites, site), target="", layer=index)
    _bind(made, definition, scope, inner, node)
    scope.names["layer"] = Num(ast.Number(node.span, str(index)).value)
    for name, stream in zip(names, streams, strict=True):
        scope.names[name] = inner.param(name, stream.type, definition.name)
    if frame.walker.body(definition.body, inner) is not None:
        frame.fail("E235", f"block '{definition.name.text}' returns; a block carries x", definition)
    functions.unused(definition, scope, frame, inner)
    results = tuple(_carried(n, s, scope, definition, inner) for n, s in zip(names, streams, strict=True))
    region = builder.finish(results)
    made.region = region
    made.results = made.returned = results
    finish_weights(builder, region, inner)
    return region, made


def _bind(made: Call, definition: ast.BlockDef, scope: Scope, inner: Frame, node: ast.Call) -> None:
    for param in definition.params:
        key = param.name.text
        if key not in made.arguments:
            if param.default is None:
                inner.fail(
                    "E110", f"block '{definition.name.text}' needs '{key}'", node, Note("the parameter", param.span)
                )
            made.defaulted.add(key)
            made.arguments[key] = inner.walker.evaluate(param.default, inner)
        scope.names[key] = made.arguments[key]


def _carried(name: str, before: Value, scope: Scope, definition: ast.BlockDef, frame: Frame) -> Value:
    """What the block gives back for a stream: the axes it got, in the compute type."""
    after = scope.names[name]
    if isinstance(after, Poison):
        raise Poisoned
    value = frame.value(after, definition.name, f"the stream '{name}'")
    if value.type.sizes != before.type.sizes:
        new = [a for a in value.names if a not in before.names]
        notes = [Note(f"'{a}' comes in here", span) for a in new if (span := brought_in(value, a)) is not None]
        gone = [a for a in before.names if a not in value.names]
        what = [f"axis '{a}' is new" for a in new] + [f"axis '{a}' is gone" for a in gone]
        what = what or ["its sizes differ"]
        frame.fail(
            "E240",
            f"block '{definition.name.text}' takes {name} as a {before.type} and gives back a {value.type}: "
            + ", ".join(what),
            definition.name,
            *notes,
            help="a contraction or a sum is missing" if new else "",
        )
    if value.names != before.names:
        value = frame.add("rename", (value,), definition.name, {"names": {}}, label=name)
    return frame.add("narrow", (value,), definition.name, label=name) if value.type.wide else value


def brought_in(value: Value, axis: str):  # type: ignore[no-untyped-def]
    """The place of the op whose result first has an axis that none of its operands of the same kind has."""
    todo, seen = [value], set()
    while todo:
        each = todo.pop(0)
        if each in seen:
            continue
        seen.add(each)
        with_axis = [v for v in each.operands if axis in v.names and v.op not in ("weight",)]
        if axis in each.names and not with_axis and each.origin.span is not None:
            return each.origin.span
        todo += with_axis
    return None
