"""One rendering rule per op; what the frameworks call things is asked of the dialect."""

from __future__ import annotations

from dataclasses import replace

from archc.emit.body import Body, Rule
from archc.emit.code import Code, infix, minus
from archc.emit.gated import gated
from archc.emit.layout import axis_of, indexed, letters, reindex, transposed
from archc.emit.numbers import number_node
from archc.emit.pairs import PAIR_RULES
from archc.emit.placed import whole
from archc.emit.programs import PROGRAM_RULES
from archc.emit.recurrent import RECURRENT_RULES, read_out
from archc.emit.statements import run_stack
from archc.ir.graph import Axis, Kind, Type, Value
from archc.ops.pointwise import UNARY
from archc.text import ast

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip


COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
OWN = frozenset({"inv_softplus"})


def _infix(body: Body, value: Value) -> Code:
    code = infix(INFIX[value.op], body.aligned(value, 0), body.aligned(value, 1))
    quotient = value.op == "div" and all(v.type.dtype == "int" for v in value.operands)
    return body.narrow(code) if quotient and not value.type.wide else code


def _compared(body: Body, value: Value) -> Code:
    sides = (body.dialect.compared(body.aligned(value, i)) for i in range(2))
    return infix(INFIX[value.op], *sides)


def _logic(body: Body, value: Value) -> Code:
    return body.dialect.logic(value.op, body.aligned(value, 0), body.aligned(value, 1))


def _unary(body: Body, value: Value) -> Code:
    if value.op in OWN:
        body.kernel(value.op)
    return body.dialect.function(value.op, body.operand(value, 0))


def _neg(body: Body, value: Value) -> Code:
    return minus(body.operand(value, 0))


def _two(body: Body, value: Value) -> Code:
    left, right = (
        replace(body.aligned(value, index), plain=not isinstance(arg, Value)) for index, arg in enumerate(value.args)
    )
    return body.dialect.two(value.op, left, right)


def _complex(body: Body, value: Value) -> Code:
    """Complex numbers are in single precision."""
    parts = []
    for index, arg in enumerate(value.args):
        code = body.aligned(value, index)
        if isinstance(arg, Value) and not arg.type.wide and not body.is_wide_weight(arg):
            body.kernel("fp32")
            code = Code(f"fp32({code.text})")
        parts.append(code)
    return body.dialect.two("complex", *parts)


def _where(body: Body, value: Value) -> Code:
    return body.dialect.where(*(body.aligned(value, i) for i in range(3)))


def _fp32(body: Body, value: Value) -> Code:
    (inner,) = value.operands
    code = body.render(inner)
    if inner.op == "weight" and inner.attrs["path"] in body.fp32:
        return code
    body.kernel("fp32")
    return Code(f"fp32({code.text})")


def _narrow(body: Body, value: Value) -> Code:
    code = body.operand(value, 0)
    return code if body.is_rounded(value.operands[0]) else body.narrow(code)


def _weight(body: Body, value: Value) -> Code:
    return body.dialect.weight(value.attrs["path"].rsplit(".", 1)[-1])


def _pos(body: Body, value: Value) -> Code:
    return Code("pos")


def _index(body: Body, value: Value) -> Code:
    return body.dialect.arange(body.size(value.attrs["axis"], value.attrs["size"]), body.like)


def _alias(body: Body, value: Value) -> Code:
    return body.operand(value, 0)


# --- contraction -------------------------------------------------------------------------------------


def _contract(body: Body, value: Value) -> Code:
    left, right = value.operands
    if value in body.fused.reads:
        return read_out(body, value, body.fused.reads[value])
    if right.op == "weight" and left.kind is not Kind.PAIR and body.fused.is_matrix(right):
        return _matrix(body, value, left, right)
    if value.kind is Kind.PAIR:
        return PAIR_RULES["contract"](body, value)
    return einsum(body, value, left, right)


def _matrix(body: Body, value: Value, left: Value, weight: Value) -> Code:
    """`x @ W`, with the axes of x flattened before and those of the result split after."""
    stored = weight.names
    over = [n for n in stored if n in value.attrs["over"]]
    made: tuple[str, ...] = value.attrs.get("made", ())
    kept = [n for n in made if n in left.names and n not in over]
    new = [n for n in stored if n in made and n not in kept]
    code = body.matched(body.render(left), left, value)
    if kept:
        return einsum(body, value, left, weight, code)
    straight = list(stored) == [*over, *new]
    turned = list(stored) == [*new, *over]
    if not (straight or turned):
        return einsum(body, value, left, weight, code)
    order = [*(n for n in left.names if n not in over), *over]
    if list(left.names) != order:
        code = transposed(code, left, order, body.dialect)
    if len(over) > 1:
        code = body.dialect.flatten(code, len(over))
    matrix = body.matched(body.render(weight), weight, value)
    product = infix("@", code, matrix if straight else Code(f"{matrix.atom}.T"))
    if len(new) == 1:
        return product
    if not new:
        return body.dialect.squeeze(product, -1)
    sizes = weight.type.sizes
    product = body.dialect.unflatten(product, -1, [body.size(n, sizes[n]) for n in new])
    return _in_order(body, product, (*order[: len(order) - len(over)], *new), value)


def _in_order(body: Body, code: Code, names: tuple[str, ...], value: Value) -> Code:
    """An array whose feature axes lie as in `names`, with those of the value."""
    if names == value.names:
        return code
    sizes = value.type.sizes
    have = Value(-1, "param", (), Type(value.kind, tuple(Axis(n, sizes[n]) for n in names)))
    return transposed(code, have, list(value.names), body.dialect)


def einsum(body: Body, value: Value, left: Value, right: Value, code: Code | None = None) -> Code:
    """A contraction written in letters; tokens keep their leading axes by `...`."""
    letter = letters(dict.fromkeys((*left.names, *right.names)))

    mixed = Kind.SEQ in (left.kind, right.kind) and Kind.TOKEN in (left.kind, right.kind)
    token, sequence = ("bt", "b") if mixed else ("...", "...")
    lead = {Kind.WEIGHT: "", Kind.SEQ: sequence, Kind.TOKEN: token, Kind.PAIR: "..."}

    def spell(names: tuple[str, ...], kind: Kind) -> str:
        return lead[kind] + "".join(letter[n] for n in names)

    spec = f"{spell(left.names, left.kind)},{spell(right.names, right.kind)}->{spell(value.names, value.kind)}"
    first = code if code is not None else body.matched(body.render(left), left, value)
    return body.dialect.einsum(spec, first, body.matched(body.render(right), right, value))


def _lookup(body: Body, value: Value) -> Code:
    index = body.operand(value, 1)
    if _from_positions(value.operands[1]):  # negative on what fills up the front of a batch
        index = body.dialect.two("maximum", index, Code("0"))
    return body.dialect.lookup(body.operand(value, 0), index)


def _from_positions(value: Value) -> bool:
    return value.op == "pos" or any(_from_positions(v) for v in value.operands if v.type.dtype == "int")


# --- reductions --------------------------------------------------------------------------------------


def _places(value: Value, names: tuple[str, ...]) -> list[int]:
    return sorted(axis_of(value, n) for n in names)


def _reduce(body: Body, value: Value) -> Code:
    (inner,) = value.operands
    if value in body.fused.reads:
        return read_out(body, value, body.fused.reads[value])
    return body.dialect.reduce(value.attrs["fn"], body.render(inner), _places(inner, value.attrs["over"]))


def _softmax(body: Body, value: Value) -> Code:
    code = body.aligned(value, 0)
    if len(value.args) > 1:
        code = body.dialect.where(body.aligned(value, 1), code, Code('float("-inf")'))
    body.kernel("fp32" if len(value.attrs["over"]) == 1 else "softmax_over")
    soft = body.dialect.softmax(code, _places(value, value.attrs["over"]))
    return soft if value.type.wide or value.kind is Kind.WEIGHT else body.narrow(soft)


def _cumsum(body: Body, value: Value) -> Code:
    return body.dialect.cumsum(body.operand(value, 0), axis_of(value, value.attrs["over"][0]))


def _argmax(body: Body, value: Value) -> Code:
    return body.dialect.argmax(body.operand(value, 0), axis_of(value.operands[0], value.attrs["over"][0]))


def _top(body: Body, value: Value) -> Code:
    node = number_node(body.call, value, 1)
    k = body.numbers.text(node, "forward") if node is not None else Code(str(value.attrs["k"]))
    body.kernel("top")
    return body.dialect.top(body.operand(value, 0), k, axis_of(value, value.attrs["over"][0]))


# --- shapes ------------------------------------------------------------------------------------------


def _split(body: Body, value: Value) -> Code:
    (inner,) = value.operands
    into = value.attrs["into"]
    return body.dialect.unflatten(
        body.render(inner), axis_of(inner, value.attrs["axis"]), [body.size(a.name, a.size) for a in into]
    )


def _merge(body: Body, value: Value) -> Code:
    (inner,) = value.operands
    axes: tuple[str, ...] = value.attrs["axes"]
    place = value.names.index(value.attrs["into"])
    code = body.render(inner)
    order = [*value.names[:place], *axes, *value.names[place + 1 :]]
    if list(inner.names) != order:
        code = transposed(code, inner, order, body.dialect)
    after = len(order) - place - len(axes) + (2 if inner.kind is Kind.PAIR else 0)
    return body.dialect.flatten(code, len(axes), after)


def _slice(body: Body, value: Value) -> Code:
    (inner,) = value.operands
    start, size = value.attrs["start"], value.attrs["size"]
    return body.dialect.slice(
        body.render(inner), Code(str(start)), Code(str(start + size)), axis_of(inner, value.attrs["axis"])
    )


def _concat(body: Body, value: Value) -> Code:
    place = axis_of(value, value.attrs["into"])
    codes = []
    for arg, piece in zip(value.operands, value.attrs["pieces"], strict=True):
        if arg.type.sizes[piece]:
            codes.append(_beside(body, value, arg, piece))
    return body.dialect.concat(codes, place)


def _beside(body: Body, value: Value, arg: Value, piece: str) -> Code:
    """One piece, with the axes of the whole; it must really have them all, concatenation does not broadcast."""
    names = [piece if n == value.attrs["into"] else n for n in value.names]
    code = whole(body, arg)
    if list(arg.names) != [n for n in names if n in arg.names]:
        code = transposed(code, arg, [n for n in names if n in arg.names], body.dialect)
    if set(arg.names) != set(names):
        parts = ["...", *(":" if n in arg.names else "None" for n in names)]
        code = indexed(code, parts, arg.kind is Kind.WEIGHT)
    return code


def _stack_axis(body: Body, value: Value) -> Code:
    target = value.type
    inner = type(target)(target.kind, target.axes[:-1], target.dtype, target.wide)
    return body.dialect.stack([reindex(body.render(v), v, inner, body.dialect) for v in value.operands])


def _pick(body: Body, value: Value) -> Code:
    (inner,) = value.operands
    place = axis_of(inner, value.attrs["axis"])
    node = body.call.nodes.get(value)
    at = str(value.attrs["at"])
    if isinstance(node, ast.Call):
        picked = next((a.value for a in node.args if a.name is not None), None)
        if isinstance(picked, ast.Name):
            at = body.numbers.text(picked, "forward").text
    return Code(f"{body.render(inner).atom}[{', '.join(['...', at, *[':'] * (-place - 1)])}]")


def _reduce_time(body: Body, value: Value) -> Code:
    (inner,) = value.operands
    over = value.attrs["over"]
    code = body.dialect.reduce_time(value.attrs["fn"], whole(body, inner), len(inner.names))
    if not over:
        return code
    places = sorted(inner.names.index(n) - len(inner.names) for n in over)
    return body.dialect.reduce(value.attrs["fn"], code, places)


def _input(body: Body, value: Value) -> Code:
    return Code(value.attrs["name"])


def _stack_out(body: Body, value: Value) -> Code:
    return run_stack(body, value)


def _missing(body: Body, value: Value) -> Code:
    raise AssertionError(f"{value} has no name in {body.unit.name}")


RULES: dict[str, Rule] = {
    "gated": gated,
    **{name: _unary for name in UNARY if name != "neg"},
    **{name: _compared if name in COMPARISONS else _infix for name in INFIX},
    "neg": _neg,
    "not": _unary,
    "real": _unary,
    "imag": _unary,
    "and": _logic,
    "or": _logic,
    "minimum": _two,
    "maximum": _two,
    "complex": _complex,
    "where": _where,
    "fp32": _fp32,
    "narrow": _narrow,
    "weight": _weight,
    "input": _input,
    "pos": _pos,
    "param": _missing,
    "index": _index,
    "random": _missing,
    "rename": _alias,
    "contract": _contract,
    "lookup": _lookup,
    "reduce": _reduce,
    "softmax": _softmax,
    "cumsum": _cumsum,
    "argmax": _argmax,
    "top": _top,
    "split": _split,
    "merge": _merge,
    "slice": _slice,
    "concat": _concat,
    "stack_axis": _stack_axis,
    "pick": _pick,
    "reduce_time": _reduce_time,
    "stack": _missing,
    "stack_out": _stack_out,
    **RECURRENT_RULES,
    **{k: v for k, v in PAIR_RULES.items() if k != "contract"},
    **PROGRAM_RULES,
}
