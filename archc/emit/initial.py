"""Initial values as text: what `init` says, or the default of the weight's role."""

from __future__ import annotations

from math import prod

from archc.elaborate.numbers import Num
from archc.emit.body import Body
from archc.emit.code import Code, call, infix
from archc.emit.fused import contracted_weights
from archc.emit.layout import reindex
from archc.emit.numbers import literal
from archc.ir.graph import Axis, Graph, Value, Weight
from archc.passes.weights import weight_names
from archc.text import ast


def initial_value(body: Body, name: str, value: Value, weight: Weight) -> Code:
    """The expression that makes a weight."""
    dialect = body.dialect
    sizes = shape(body, value, weight)
    node = body.call.inits.get(name)
    if weight.init is None:
        if weight.role == "bias":
            return dialect.filled(sizes, Code("0"))
        if weight.role == "scale":
            return dialect.filled(sizes, Code("1"))
        normal = dialect.random("normal", sizes, [])
        if not weight.contracted:  # a table that is looked up and nothing else
            return normal
        fan = _product([body.size(a.name, a.size) for a in value.type.axes if a.name in weight.contracted])
        return infix("/", normal, call("math.sqrt", fan))
    (result,) = weight.init.results
    if result.op == "random":
        return _random(body, result, sizes, node, weight)
    body = _with_random(body, sizes, weight)
    code = body.render(result)
    if {a.name for a in result.type.axes} != set(value.names) or not _has_random(result):
        code = reindex(code, result, value.type, dialect)
        return dialect.expanded(code, sizes)
    return code


def _has_random(value: Value) -> bool:
    return value.op == "random" or any(_has_random(v) for v in value.operands)


def _with_random(body: Body, sizes: list[Code], weight: Weight) -> Body:
    rules = dict(body.rules)

    def random(inner: Body, found: Value) -> Code:
        return _random(inner, found, sizes, inner.call.nodes.get(found), weight)

    rules["random"] = random
    rules["fp32"] = lambda inner, found: inner.operand(found, 0)
    rules["index"] = lambda inner, found: inner.dialect.arange(
        inner.size(found.attrs["axis"], found.attrs["size"]), None
    )
    body.rules = rules
    return body


def _random(body: Body, value: Value, sizes: list[Code], node: ast.Expr | None, weight: Weight) -> Code:
    how, params = value.attrs["how"], value.attrs["params"]
    if how == "constant":
        text = body.numbers.text(node, "init") if node is not None else Code(literal(params[0]))
        return body.dialect.filled(sizes, text)
    codes = [Code(literal(p)) for p in params]
    if isinstance(node, ast.Call) and len(node.args) == len(params):
        for index, arg in enumerate(node.args):
            if isinstance(arg.value, ast.Expr) and isinstance(body.call.facts.get(arg.value), Num):
                codes[index] = body.numbers.text(arg.value, "init")
    if how == "orthogonal":
        body.kernel("orthogonal")
        rows = weight.row_axes if len(sizes) == len(weight.type.axes) else 1  # a stored matrix has merged its rows
        given = (("kept", len(weight.kept), 0), ("rows", rows, 1))
        codes = [Code(f"{name}={number}") for name, number, default in given if number != default]
    return body.dialect.random(how, sizes, codes)


def shape(body: Body, value: Value, weight: Weight) -> list[Code]:
    """The stored shape: a matrix as [kept, contracted, made], anything else axis by axis."""
    axes = value.type.axes
    if not body.fused.is_matrix(value) or weight.role == "table":
        return [body.size(a.name, a.size) for a in axes]
    kept = [a for a in axes if a.name in weight.kept]
    inner = [a for a in axes if a.name in weight.contracted and a.name not in weight.kept]
    made = [a for a in axes if a not in kept and a not in inner]
    out = [body.size(a.name, a.size) for a in kept]
    if kept:
        return out + [body.size(a.name, a.size) for a in (*inner, *made)]
    return [*out, _product([_size(body, a) for a in inner]), _product([_size(body, a) for a in made])]


def _size(body: Body, axis: Axis) -> Code:
    return body.size(axis.name, axis.size)


def _product(codes: list[Code]) -> Code:
    out: Code | None = None
    for code in codes:
        out = code if out is None else infix("*", out, code)
    return out if out is not None else Code("1")


def stored_shape(value: Value, weight: Weight, matrix: bool) -> tuple[int, ...]:
    """The stored shape as numbers, as `shape` says it in text."""
    axes = value.type.axes
    if not matrix or weight.role == "table" or weight.kept:
        return tuple(a.size for a in axes)
    inner = [a.size for a in axes if a.name in weight.contracted]
    made = [a.size for a in axes if a.name not in weight.contracted]
    return (prod(inner), prod(made))


def stored_shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """The shape of every weight in a checkpoint, by full name: that of the emitted modules of both backends.

    Axes stay in the order of the weight; those of a matrix are merged.
    """
    matrices = contracted_weights(graph)
    weights = graph.named_weights()
    names = {name: value for value, names in weight_names(graph).items() for name in names}
    return {n: stored_shape(names[n], weight, names[n] in matrices) for n, weight in weights.items()}
