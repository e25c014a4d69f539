"""Numbers that are known when compiling: exact as long as they can be, with where they came from; their functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from archc.diagnostics import Note, Span


@dataclass(frozen=True)
class Root:
    """Where a number came from: a parameter, the value it got, and what gave it."""

    name: str
    value: str
    giver: str
    span: Span | None

    @property
    def note(self) -> Note:
        """The root as a note of a diagnostic."""
        return Note(f"{self.name} = {self.value}, from {self.giver}", self.span)


@dataclass(frozen=True)
class Num:
    """A number known when compiling; exact as long as its history allows."""

    value: Fraction | float
    roots: tuple[Root, ...] = ()

    @property
    def plain(self) -> int | float:
        """The number as an operand of an op."""
        if isinstance(self.value, Fraction):
            return int(self.value) if self.value.denominator == 1 else float(self.value)
        return self.value

    @property
    def whole(self) -> int | None:
        """The number as a size, if it is one."""
        if isinstance(self.value, Fraction) and self.value.denominator == 1:
            return int(self.value)
        return None

    def __str__(self) -> str:
        if isinstance(self.value, Fraction):
            return f"{self.value.numerator:_}" + (f"/{self.value.denominator}" if self.value.denominator != 1 else "")
        return repr(self.value)


def merge_roots(*numbers: Num) -> tuple[Root, ...]:
    """The histories of several numbers, each root once."""
    return tuple(dict.fromkeys(r for n in numbers for r in n.roots))


def _power(a: Fraction | float, b: Fraction | float) -> Fraction | float:
    if isinstance(a, Fraction) and isinstance(b, Fraction) and b.denominator == 1 and abs(b) <= 4096:
        return Fraction(a) ** int(b)
    return math.pow(a, b)


def _sqrt(a: Fraction | float) -> Fraction | float:
    if isinstance(a, Fraction) and a >= 0:
        top, bottom = math.isqrt(a.numerator), math.isqrt(a.denominator)
        if top * top == a.numerator and bottom * bottom == a.denominator:
            return Fraction(top, bottom)
    return math.sqrt(a)


def _divide(a: Fraction | float, b: Fraction | float) -> Fraction | float:
    return a / b


def _abs(a: Fraction | float) -> Fraction | float:
    return -a if a < 0 else a


def _sigmoid(a: Fraction | float) -> float:
    return 1 / (1 + math.exp(-a))


def _gelu_tanh(a: Fraction | float) -> float:
    return a * (1 + math.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * float(a) ** 3))) / 2


ARITHMETIC: dict[str, Callable[[Fraction | float, Fraction | float], Fraction | float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _divide,
    "^": _power,
    "min": min,
    "max": max,
}

FUNCTIONS: dict[str, Callable[[Fraction | float], Fraction | float]] = {
    "ceil": lambda a: Fraction(math.ceil(a)),
    "floor": lambda a: Fraction(math.floor(a)),
    "abs": _abs,
    "sqrt": _sqrt,
    "rsqrt": lambda a: 1 / _sqrt(a),
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "log1p": math.log1p,
    "sin": math.sin,
    "cos": math.cos,
    "tanh": math.tanh,
    "sigmoid": _sigmoid,
    "sign": lambda a: Fraction((a > 0) - (a < 0)),
    "relu": lambda a: max(a, Fraction(0)),
    "silu": lambda a: a * _sigmoid(a),
    "erf": math.erf,
    "gelu": lambda a: a * (1 + math.erf(a / math.sqrt(2))) / 2,
    "gelu_tanh": _gelu_tanh,
    "real": lambda a: a,
    "imag": lambda a: Fraction(0),
    "softplus": lambda a: math.log1p(math.exp(a)),
    "inv_softplus": lambda a: a + math.log(-math.expm1(-a)),
}
