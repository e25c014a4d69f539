"""Work, counted in floating-point operations, and the rules that many ops share.

Conventions: a multiply-add is 2; a function of one element (exp, a comparison) is 1; a softmax is 5 an element
(maximum, difference, exp, sum, quotient); of complex numbers a product is 6, a multiply-add 8 and anything else 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from archc.ir.graph import Kind, Value


@dataclass(frozen=True, slots=True)
class Work:
    """Operations on matrix units, on vector units and in recurrences, once per `per` (token, pair, weight, ...)."""

    per: Kind = Kind.TOKEN
    matrix: int = 0
    vector: int = 0
    scan: int = 0


def free(value: Value) -> Work:
    """Nothing is computed: data are named, moved or chosen."""
    return Work()


def pointwise(value: Value) -> Work:
    """One operation per element of the result."""
    each = {"mul": 6, "div": 6}.get(value.op, 2) if value.type.dtype == "complex" else 1
    return Work(value.kind, vector=each * value.type.elements)


def softmax(value: Value) -> Work:
    """Five operations per element."""
    return Work(value.kind, vector=5 * value.type.elements)


def per_input(value: Value) -> Work:
    """One operation per element of the operand: sums, means, maxima, prefix sums."""
    (operand, *_) = value.operands
    each = 2 if operand.type.dtype == "complex" else 1
    return Work(operand.kind, vector=each * operand.type.elements)


def product_of_sums(value: Value) -> Work:
    """A multiply-add for every combination of the axes of both operands; per pair where one of them is a pair."""
    left, right = value.operands
    sizes = left.type.sizes | right.type.sizes
    each = 8 if value.type.dtype == "complex" else 2
    return Work(max(left.kind, right.kind), matrix=each * prod(sizes.values()))


def convolution(value: Value) -> Work:
    """A multiply-add per tap and element."""
    taps: int = value.operands[1].type.sizes[value.attrs["taps"]]
    return Work(Kind.TOKEN, vector=2 * taps * value.type.elements)


def recurrence(value: Value) -> Work:
    """A multiply-add (or an addition and a maximum) per element of the state."""
    return Work(Kind.TOKEN, scan=(8 if value.type.dtype == "complex" else 2) * value.type.elements)
