"""From a parsed library to a checked program: sizes, the model itself, its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from archc.diagnostics import ArchError, Diagnostic, closest, error
from archc.elaborate import names, statements
from archc.elaborate.bound import Bound, Instance, Poison, Scope
from archc.elaborate.builder import Builder
from archc.elaborate.call import Call, Program
from archc.elaborate.frame import Frame, Shelf, describe
from archc.elaborate.library import Library
from archc.elaborate.numbers import Num, Root
from archc.elaborate.walk import Elaborator
from archc.elaborate.weights import finish_weights
from archc.ir.graph import Graph, Kind, Value
from archc.text import ast


def elaborate(
    library: Library,
    model: str | None = None,
    size: str | None = None,
    settings: Mapping[str, Fraction | float] | None = None,
) -> Program:
    """Elaborates one model at one size. Raises `ArchError` with everything that is wrong, in the order of the text."""
    definition = library.model(model)
    shelf = Shelf()
    root = Call(definition, Instance(""))
    builder = Builder(definition.name.text, shelf.ids)
    frame = Frame(Elaborator(), shelf, builder, Scope(library.scope(), closed=True), root)
    statements.check(definition, frame)
    numbers = _parameters(definition, size, settings or {}, frame)
    _raise(shelf, library)
    outputs, values = _run(definition, frame)
    _raise(shelf, library)
    region = builder.finish(values)
    root.region = region
    root.results = root.returned = values
    finish_weights(builder, region, frame)
    names.report_unused(definition, frame, outputs)
    _raise(shelf, library)
    inputs = tuple(v.attrs["name"] for v in builder.values if v.op == "input")
    graph = Graph(definition.name.text, definition.kind, region, inputs, outputs, shelf.weights)
    sizes = tuple(s.name.text for s in definition.body if isinstance(s, ast.SizeDecl))
    return Program(graph, root, definition, numbers, size, (library.source, *library.sources), sizes)


def _run(definition: ast.ModelDef, frame: Frame) -> tuple[tuple[str, ...], tuple[Value, ...]]:
    """Runs the body of the model; the names and values of its outputs."""
    frame.scope.names["tokens"] = frame.add("input", (), definition.name, {"name": "tokens"}, label="tokens")
    frame.shelf.pos = frame.add("pos", (), definition.name, label="pos")
    defaults = [s for s in definition.body if isinstance(s, ast.Init) and s.name.text == "default"]
    if defaults:
        frame.shelf.default_init = (defaults[0].value, frame)
    result = frame.walker.body(definition.body, frame)
    if frame.shelf.diagnostics:
        return (), ()
    try:
        return _outputs(result, definition, frame)
    except ArchError as failed:
        frame.shelf.report(failed)
        return (), ()


def _raise(shelf: Shelf, library: Library) -> None:
    """Raises what was found: the file's own lines first, in the order of the text."""
    if not shelf.diagnostics:
        return
    order = {source: i for i, source in enumerate((library.source, *library.sources))}

    def place(each: Diagnostic) -> tuple[int, int]:
        return (order.get(each.span.source, len(order)), each.span.start) if each.span is not None else (-1, 0)

    raise ArchError(sorted(shelf.diagnostics, key=place))


# --- numbers -----------------------------------------------------------------------------------------


def _parameters(
    definition: ast.ModelDef, size: str | None, settings: Mapping[str, Fraction | float], frame: Frame
) -> dict[str, Num]:
    """The numbers of the model: from `--set`, else from the size, else the default."""
    known = [p.name.text for p in definition.params]
    chosen = _size_settings(definition, size)
    for key in settings:
        if key not in known:
            frame.shelf.report(_no_parameter(definition, key, definition.name, "--set: "))
    for statement in definition.body:
        for setting in statement.settings if isinstance(statement, ast.SizeDecl) else ():
            if setting.name.text not in known:
                frame.shelf.report(_no_parameter(definition, setting.name.text, setting.name))
    out: dict[str, Num] = {}
    for param in definition.params:
        key = param.name.text
        try:
            out[key] = _parameter(param, chosen.get(key), size, settings.get(key), frame)
            frame.scope.names[key] = out[key]
        except ArchError as failed:
            frame.shelf.report(failed)
            frame.scope.names[key] = Poison()
    frame.call.arguments.update(out)
    return out


def _no_parameter(definition: ast.ModelDef, key: str, node: ast.Node, where: str = "") -> ArchError:
    known = [p.name.text for p in definition.params]
    hint = closest(key, known)
    message = f"{where}'{definition.name.text}' has no parameter '{key}'" + (f"; {hint}" if hint else "")
    return error("E125", message, node.span, help=f"it has: {', '.join(known) or 'none'}")


def _parameter(
    param: ast.Param, setting: ast.Setting | None, size: str | None, given: Fraction | float | None, frame: Frame
) -> Num:
    key = param.name.text
    if param.pattern is not None:
        frame.fail("E211", f"'{key}' of a model is a number: it has no axes", param)
    if given is not None:
        return Num(given, (Root(key, str(Num(given)), "--set", None),))
    node = setting.value if setting is not None else param.default
    if node is None:
        frame.fail("E110", f"'{key}' has no value", param, help="give it a default, or set it in a size")
    bound = frame.number(frame.walker.evaluate(node, frame), node, f"'{key}'")
    giver = f"size {size}" if setting is not None else "its default"
    span = setting.span if setting is not None else param.span
    return Num(bound.value, (Root(key, str(bound), giver, span), *bound.roots))


def _size_settings(definition: ast.ModelDef, size: str | None) -> dict[str, ast.Setting]:
    if size is None:
        return {}
    sizes = {s.name.text: s for s in definition.body if isinstance(s, ast.SizeDecl)}
    if size not in sizes:
        hint = closest(size, sizes)
        message = f"'{definition.name.text}' has no size '{size}'" + (f"; {hint}" if hint else "")
        raise error("E126", message, definition.name.span, help=f"it has: {', '.join(sizes) or 'none'}")
    return {s.name.text: s for s in sizes[size].settings}


# --- outputs -----------------------------------------------------------------------------------------


def _outputs(
    result: tuple[Bound, ...] | None, definition: ast.ModelDef, frame: Frame
) -> tuple[tuple[str, ...], tuple[Value, ...]]:
    """What the model gives: `return a, b`, or `logits = ...`."""
    if result is None:
        bound = frame.scope.find("logits")
        if bound is None:
            help = "write logits = ..., or return"
            frame.fail("E127", f"'{definition.name.text}' gives nothing", definition.name, help=help)
        return ("logits",), (_output(bound, _last(definition, "logits"), frame),)
    returned = next(s for s in definition.body if isinstance(s, ast.Return))
    pairs = zip(result, returned.values, strict=True)
    values = tuple(_output(bound, node, frame) for bound, node in pairs)
    labels = tuple(v.text if isinstance(v, ast.Name) else f"output_{i}" for i, v in enumerate(returned.values))
    return labels, values


def _last(definition: ast.ModelDef, name: str) -> ast.Node:
    """Where a name is assigned last."""
    idents = [t for s in definition.body for t in statements.targets(s) if t.text == name]
    return idents[-1] if idents else definition.name


def _output(bound: Bound, node: ast.Node, frame: Frame) -> Value:
    value = frame.value(bound, node, "an output")
    if value.kind not in (Kind.TOKEN, Kind.SEQ):
        frame.fail("E129", f"an output is one value per token or sequence, this is {describe(value)}", node)
    return value
