"""Arithmetic on the fields of a config, as the data beside a spec writes it: `= expand * hidden_size`."""

from __future__ import annotations

import ast
import math
import struct
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

Number = int | Fraction


def is_expression(value: object) -> bool:
    """Whether a value of the data is one to compute: a text that begins with `=`."""
    return isinstance(value, str) and value.startswith("=")


def names(text: str) -> frozenset[str]:
    """The fields that an expression reads.

    >>> sorted(names("= hidden_size / rope_parameters.factor"))
    ['hidden_size', 'rope_parameters.factor']
    """
    tree = _tree(text)
    inner = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    called = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    return frozenset(
        _dotted(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in inner | called
    ) - {"none"}


def value_of(text: str, fields: Mapping[str, Any]) -> Any:
    """What an expression comes to, exact where no root is taken; `none` is None.

    >>> value_of("= ceil(hidden_size / 16)", {"hidden_size": 40})
    3
    >>> float(value_of("= bfloat16(sqrt(hidden_size))", {"hidden_size": 2560}))
    50.5
    """
    found = _value(_tree(text), fields)
    return int(found) if isinstance(found, Fraction) and found.denominator == 1 else found


@cache
def _tree(text: str) -> ast.expr:
    return ast.parse(text.removeprefix("=").strip(), mode="eval").body


def _value(node: ast.expr, fields: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(repr(number))
        case ast.Name(id="none"):
            return None
        case ast.Name() | ast.Attribute():
            return fields[_dotted(node)]
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](Fraction(_value(left, fields)), Fraction(_value(right, fields)))
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            return _FUNCTIONS[name](_value(argument, fields))
    raise AssertionError(f"{ast.unparse(node)} stands in the data of a spec")


def _dotted(node: ast.expr) -> str:
    return ast.unparse(node)


def _bfloat16(x: Number) -> Fraction:
    """The nearest number with eight bits, the even one of two."""
    bits: int = struct.unpack("<I", struct.pack("<f", float(x)))[0]
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return Fraction(struct.unpack("<f", struct.pack("<I", bits))[0])


_OPERATORS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}
_FUNCTIONS: Mapping[str, Callable[[Any], Number]] = {
    "ceil": math.ceil,
    "count": len,
    "sqrt": lambda x: Fraction(math.sqrt(x)),
    "bfloat16": _bfloat16,
}
