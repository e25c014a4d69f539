"""`stack`: the pattern of layers. Each distinct pair of block and arguments is elaborated once."""

from __future__ import annotations

from dataclasses import dataclass

from archc.diagnostics import ArchError, Note, Span, closest
from archc.elaborate import functions, names, statements
from archc.elaborate.attributes import attribute
from archc.elaborate.bound import Axes, BlockUse, Bound, Builtin, Function, Instance, Poison, Repeated, Replaced, Scope
from archc.elaborate.builder import Builder
from archc.elaborate.call import Call, Stack
from archc.elaborate.frame import Frame, Poisoned, describe
from archc.elaborate.numbers import Num
from archc.elaborate.weights import finish_weights
from archc.ir.graph import Kind, Layer, Origin, Region, Value
from archc.text import ast

USAGE = "write stack(x, depth, [block, ...])"
MOST = 10_000
"""Layers of one stack; more is a slip of the pen."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Which block runs at which layer, and where it is listed; `period` is the length of the repeated list."""

    blocks: tuple[BlockUse, ...]
    places: tuple[Span, ...]
    period: int


def run(node: ast.Call, frame: Frame) -> Bound:
    """Elaborates `stack(x, ..., depth, [...])`; gives back the streams."""
    if not isinstance(frame.call.definition, ast.ModelDef):
        frame.fail("E115", "'stack' stands in a model, not in a fn or block", node.callee)
    *streams, depth, entries = _arguments(node, frame)
    assert isinstance(entries, ast.ListExpr)
    values = [_stream(s, frame) for s in streams]
    labels = ("x", *_further(streams[1:], frame))
    number = frame.number(frame.walker.evaluate(depth, frame), depth, "the depth")
    count = frame.whole(number, depth, "the depth")
    if not 1 <= count <= MOST:
        frame.fail("E232", f"a stack has 1 to {MOST:_} layers, not {count:_}", depth, *number.roots)
    plan = make_plan(entries, count, frame)
    built = _layers(plan, values, labels, frame)
    instance = frame.call.instance.child(attribute(node.label.text) if node.label else "layers", node.label is not None)
    if instance is None:
        frame.fail(
            "E116", "the name of this stack is taken", node.label or node.callee, help="label it: name: stack(...)"
        )
    layers = tuple(
        Layer(i, block.definition.name.text, f"{instance.path}.{i}", region)
        for i, (block, (region, _)) in enumerate(zip(plan.blocks, built, strict=True))
    )
    stack = frame.add("stack", tuple(values), node, {"layers": layers})
    calls = tuple(call for _, call in built)
    frame.call.stacks[node] = Stack(node, stack, labels, layers, calls, _period(calls, plan.period))
    outs: tuple[Bound, ...] = tuple(
        frame.add("stack_out", (stack,), node, {"index": i}, label=labels[i]) for i in range(len(values))
    )
    return outs[0] if len(outs) == 1 else outs


def _arguments(node: ast.Call, frame: Frame) -> list[ast.Expr]:
    args = [a.value for a in node.args if isinstance(a.value, ast.Expr) and a.name is None]
    if len(args) != len(node.args) or len(args) < 3 or not isinstance(args[-1], ast.ListExpr):
        frame.fail("E106", "'stack' takes streams, a depth and a list of blocks", node, help=USAGE)
    return args


def _stream(node: ast.Expr, frame: Frame) -> Value:
    value = frame.value(frame.walker.evaluate(node, frame), node, "a stream")
    if value.kind is not Kind.TOKEN or value.type.dtype != "real":
        frame.fail("E236", f"a stream is a token of real numbers, this is {describe(value)}", node)
    return value


def _further(streams: list[ast.Expr], frame: Frame) -> tuple[str, ...]:
    """The names of the streams after the first, which every block calls x."""
    out: list[str] = []
    for node in streams:
        if not isinstance(node, ast.Name) or node.text in ("x", "layer", *out):
            frame.fail("E236", "a further stream needs a name of its own, by which the blocks know it", node)
        out.append(node.text)
    return tuple(out)


# --- the plan ----------------------------------------------------------------------------------------


def make_plan(entries: ast.ListExpr, count: int, frame: Frame) -> Plan:
    """The list repeated to the depth, then the overrides."""
    flat: list[tuple[BlockUse, Span]] = []
    replaced: list[Replaced] = []
    for entry in entries.entries:
        bound = _override(entry, frame) if isinstance(entry, ast.Override) else _block(entry, frame)
        match bound:
            case BlockUse():
                flat.append((bound, entry.span))
            case Repeated():
                flat += [(bound.entry, entry.span)] * bound.times
            case Replaced():
                replaced.append(bound)
    if not flat:
        frame.fail("E233", "a stack without blocks", entries, help="list at least one block")
    chosen = [flat[i % len(flat)] for i in range(count)]
    seen: dict[int, Replaced] = {}
    for each in replaced:
        for index in _indices(each, count, frame):
            first = seen.setdefault(index, each)
            if first is not each:
                message = f"layer {index} is chosen twice"
                frame.fail("E237", message, each.node.where, Note("first here", first.node.where.span))
            chosen[index] = (each.entry, each.node.value.span)
    return Plan(tuple(b for b, _ in chosen), tuple(p for _, p in chosen), len(flat))


def _period(calls: tuple[Call, ...], listed: int) -> int:
    """After how many layers they repeat: after the list, or sooner where the depth cuts it (`[mamba * 32, local]`)."""
    periods = (p for p in range(1, listed) if all(call is calls[i % p] for i, call in enumerate(calls)))
    return next(periods, listed)


def _block(entry: ast.Expr, frame: Frame) -> BlockUse | Repeated:
    bound = frame.walker.evaluate(entry, frame)
    if isinstance(bound, BlockUse | Repeated):
        return bound
    help = "separate blocks by commas; a repeated one is written block * 2"
    frame.fail("E214", f"a stack holds blocks, this is {describe(bound)}", entry, help=help)


def _override(node: ast.Override, frame: Frame) -> Replaced:
    """`at(7, 15): attention`."""
    how = node.where.callee.text
    if how not in ("at", "first", "last"):
        hint = closest(how, ("at", "first", "last"))
        message = f"unknown choice of layers '{how}'" + (f"; {hint}" if hint else "")
        frame.fail("E104", message, node.where.callee, help="write at(7, 15): block, first(2): block or last(2): block")
    numbers: list[Num] = []
    for arg in node.where.args:
        if not isinstance(arg.value, ast.Expr) or arg.name is not None:
            frame.fail("E106", f"'{how}' takes numbers of layers", arg, help=f"write {how}(2): block")
        numbers.append(frame.number(frame.walker.evaluate(arg.value, frame), arg.value, "a layer"))
    entry = _block(node.value, frame)
    if isinstance(entry, Repeated):
        frame.fail("E214", "the chosen layers all run this block: it is not repeated", node.value)
    return Replaced(node, how, tuple(numbers), entry)


def _indices(each: Replaced, count: int, frame: Frame) -> list[int]:
    nodes = [a.value for a in each.node.where.args if isinstance(a.value, ast.Expr)]
    numbers = [frame.whole(n, node, "a layer") for n, node in zip(each.numbers, nodes, strict=True)]
    if each.how != "at":
        if len(numbers) != 1 or not 0 <= numbers[0] <= count:
            roots = tuple(r for n in each.numbers for r in n.roots)
            frame.fail("E234", f"'{each.how}' takes one number of layers, 0 to {count}", each.node.where, *roots)
        return list(range(numbers[0])) if each.how == "first" else list(range(count - numbers[0], count))
    if not numbers:
        frame.fail("E234", "'at' needs the numbers of layers", each.node.where, help="write at(7, 15): block")
    for number, node, known in zip(numbers, nodes, each.numbers, strict=True):
        if not 0 <= number < count:
            message = f"there is no layer {number}: this stack has layers 0 to {count - 1}"
            frame.fail("E234", message, node, *known.roots)
    return numbers


# --- distinct layers ---------------------------------------------------------------------------------


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


def _layers(plan: Plan, streams: list[Value], labels: tuple[str, ...], frame: Frame) -> list[tuple[Region, Call]]:
    """The region and the call of every layer; a block that reads `layer` is elaborated for each of its layers."""
    known: dict[object, tuple[Region, Call]] = {}
    out: list[tuple[Region, Call]] = []
    problems: list[ArchError] = []
    failed: set[object] = set()
    for index, (use, place) in enumerate(zip(plan.blocks, plan.places, strict=True)):
        given = tuple(sorted((k, repr(argument_key(v))) for k, v in use.given.items()))
        key = (id(use.definition), given)
        if key in failed:
            continue
        if key in known:
            out.append(known[key])
            continue
        try:
            region, made, reads_layer = _layer(index, use, streams, labels, place, frame)
        except ArchError as problem:
            problems.append(problem)
            failed.add(key)
            continue
        if not reads_layer:
            known[key] = region, made
        out.append((region, made))
    if problems:
        raise ArchError(d for p in problems for d in p.diagnostics)
    return out


def _layer(
    index: int, use: BlockUse, streams: list[Value], labels: tuple[str, ...], place: Span, frame: Frame
) -> tuple[Region, Call, bool]:
    """Elaborates one block with its arguments as a region; whether it reads `layer`."""
    definition = use.definition
    builder = Builder(definition.name.text, frame.shelf.ids)
    made = Call(definition, Instance(""), arguments=dict(use.given))
    scope = Scope(use.scope)
    inner = frame.at(builder=builder, scope=scope, call=made, sites=(*frame.sites, place), target="", block=scope)
    statements.check(definition, inner)
    reserved = ("layer", *labels)
    for param in definition.params:
        if param.name.text in reserved:
            inner.fail("E124", f"a block has '{param.name.text}' without a parameter", param)
    scope.names["layer"] = Num(ast.Number(place, str(index)).value)
    for label, stream in zip(labels, streams, strict=True):
        scope.names[label] = inner.param(label, stream.type, definition.name)
    functions.bind(made, scope, inner, place, inner)
    inner.walker.body(definition.body, inner)
    results = tuple(_carried(n, p, scope, inner) for n, p in zip(labels, builder.params, strict=True))
    region = builder.finish(results)
    made.region = region
    made.results = made.returned = results
    finish_weights(builder, region, inner)
    names.report_unused(definition, inner, labels)
    return region, made, "layer" in scope.used


def _carried(name: str, before: Value, scope: Scope, frame: Frame) -> Value:
    """What the block gives back for a stream: the axes it got, in the compute type."""
    definition = frame.call.definition
    after = scope.names[name]
    if isinstance(after, Poison):
        raise Poisoned
    value = frame.value(after, definition.name, f"the stream '{name}'")
    if value.type.sizes != before.type.sizes:
        _changed(name, before, value, frame)
    if value.kind is not Kind.TOKEN or value.type.dtype not in ("real", "int"):
        message = f"block '{definition.name.text}' takes {name} as a {before.type} and gives back {describe(value)}"
        frame.fail("E240", message, definition.name, *frame.made(value))
    if value.names != before.names:
        value = frame.add("rename", (value,), definition.name, {"names": {}}, label=name)
    return frame.add("narrow", (value,), definition.name, label=name) if value.type.wide else value


def _changed(name: str, before: Value, value: Value, frame: Frame) -> None:
    """Raises E240: which axis is new or gone, and the line that brought it in."""
    definition = frame.call.definition
    new = [a for a in value.names if a not in before.names]
    gone = [a for a in before.names if a not in value.names]
    what = [f"axis '{a}' is new" for a in new] + [f"axis '{a}' is gone" for a in gone]
    origins = [(a, brought_in(value, a)) for a in new]
    notes = [Note(f"'{a}' comes in here", frame.shown(o)) for a, o in origins if o is not None]
    message = f"block '{definition.name.text}' takes {name} as a {before.type} and gives back a {value.type}: "
    message += ", ".join(what or ["its sizes differ"])
    help = "a contraction or a sum is missing" if new else ""
    frame.fail(
        "E240", message, definition.name, *(notes or frame.made(value)), *frame.history(before, value), help=help
    )


def brought_in(value: Value, axis: str) -> Origin | None:
    """The origin of the op whose result first has an axis: none of its operands but weights has it."""
    todo, seen = [value], set[Value]()
    while todo:
        each = todo.pop(0)
        if each in seen:
            continue
        seen.add(each)
        with_axis = [v for v in each.operands if axis in v.names and v.op != "weight"]
        if axis in each.names and not with_axis and each.origin.span is not None:
            return each.origin
        todo += with_axis
    return None
