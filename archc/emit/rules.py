"""One rendering rule per op; what the frameworks call things is asked of the dialect."""

from __future__ import annotations

from dataclasses import replace

from archc.emit.body import Body, Rule
from archc.emit.calls import called
from archc.emit.code import Code, infix, minus
from archc.emit.contract import affine, contract
from archc.emit.convs import conv
from archc.emit.gated import gated
from archc.emit.layout import axis_of
from archc.emit.numbers import number_node
from archc.emit.pairs import PAIR_RULES
from archc.emit.placed import whole
from archc.emit.programs import PROGRAM_RULES
from archc.emit.recurrent import RECURRENT_RULES, read_out
from archc.emit.shapes import SHAPE_RULES
from archc.emit.stable import better
from archc.emit.statements import run_stack
from archc.ir.graph import Kind, Value
from archc.ops.logarithms import BETTER
from archc.ops.pointwise import UNARY
from archc.text import ast

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip


COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
OWN = frozenset({"inv_softplus"})


def _add(body: Body, value: Value) -> Code:
    return affine(body, value) or _infix(body, value)


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


def _stable(rule: Rule) -> Rule:
    """A rule, but for values that have a form which keeps value and slope further."""
    return lambda body, value: better(body, value) or rule(body, value)


def _root(body: Body, value: Value) -> Code:
    """A root; with a slope at 0 too, unless a number is added to what it is taken of."""
    (inner,) = value.operands
    if inner.op == "add" and len(inner.operands) == 1:
        return _unary(body, value)
    return Code(f"{body.kernel('root')}({body.operand(value, 0).text})")


def _power(body: Body, value: Value) -> Code:
    """A power; of a base that may be 0 with a slope there too, unless its exponent is seen to be 1 or more."""
    base, exponent = value.args
    written = number_node(body.call, value, 1)
    whole = not isinstance(exponent, Value) and (exponent >= 1 or exponent < 0)
    if not isinstance(base, Value) or (whole and (written is None or isinstance(written, ast.Number | ast.Unary))):
        return _infix(body, value)
    left, right = body.aligned(value, 0), body.aligned(value, 1)
    return Code(f"{body.kernel('power')}({left.text}, {right.text})")


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
        code = replace(body.aligned(value, index), plain=not isinstance(arg, Value))
        if isinstance(arg, Value) and not arg.type.wide and not body.precision.is_wide_weight(arg):
            body.kernel("fp32")
            code = Code(f"fp32({code.text})")
        parts.append(code)
    return body.dialect.two("complex", *parts)


def _where(body: Body, value: Value) -> Code:
    return body.dialect.where(*(body.aligned(value, i) for i in range(3)))


def _fp32(body: Body, value: Value) -> Code:
    (inner,) = value.operands
    code = body.render(inner)
    if inner.op == "weight" and inner.attrs["path"] in body.precision.fp32:
        return code
    body.kernel("fp32")
    return Code(f"fp32({code.text})")


def _narrow(body: Body, value: Value) -> Code:
    code = body.operand(value, 0)
    kept = value.type.dtype == "complex" or body.precision.is_rounded(value.operands[0])
    return code if kept else body.narrow(code)


def _weight(body: Body, value: Value) -> Code:
    return body.dialect.weight(value.attrs["path"].rsplit(".", 1)[-1])


def _pos(body: Body, value: Value) -> Code:
    return Code("pos")


def _index(body: Body, value: Value) -> Code:
    return body.dialect.arange(body.size(value.attrs["axis"], value.attrs["size"]), body.like)


def _alias(body: Body, value: Value) -> Code:
    return body.operand(value, 0)


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
    "called": called,
    "gated": gated,
    "conv": conv,
    **{name: _unary for name in UNARY if name != "neg"},
    **{name: _compared if name in COMPARISONS else _infix for name in INFIX},
    "add": _add,
    "pow": _power,
    "sqrt": _root,
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
    "contract": contract,
    "lookup": _lookup,
    "reduce": _reduce,
    "softmax": _softmax,
    "cumsum": _cumsum,
    "argmax": _argmax,
    "top": _top,
    "reduce_time": _reduce_time,
    "stack": _missing,
    "stack_out": _stack_out,
    **SHAPE_RULES,
    **RECURRENT_RULES,
    **{k: v for k, v in PAIR_RULES.items() if k != "contract"},
    **PROGRAM_RULES,
}
RULES |= {name: _stable(RULES[name]) for name in BETTER}
