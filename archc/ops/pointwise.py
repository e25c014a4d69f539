"""Element-wise ops: arithmetic, comparison, logic, functions of one value, `where`, complex parts, `fp32`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from archc.ir.graph import Operand as Given
from archc.ir.graph import Type, Value
from archc.ops import cost, memory, support
from archc.ops.base import Attrs, Derivative, Flow, Infer, Op, Slopes, join, join_dtype
from archc.ops.node import Node, Operand, of, where
from archc.ops.support import Found, Support


def _same(args: tuple[Given, ...], attrs: Attrs) -> Type:
    return join(args)


def _real(args: tuple[Given, ...], attrs: Attrs) -> Type:
    return join(args, "complex" if join_dtype(args) == "complex" else "real")


def _truth(args: tuple[Given, ...], attrs: Attrs) -> Type:
    return join(args, "bool")


def _where(args: tuple[Given, ...], attrs: Attrs) -> Type:
    whole = join(args)
    branches = join_dtype(args[1:])
    wide = any(isinstance(a, Value) and a.type.wide for a in args[1:])
    return Type(whole.kind, whole.axes, branches, wide)


def _complex(args: tuple[Given, ...], attrs: Attrs) -> Type:
    whole = join(args)
    return Type(whole.kind, whole.axes, "complex", True)


def _part(args: tuple[Given, ...], attrs: Attrs) -> Type:
    whole = join(args)
    return Type(whole.kind, whole.axes, "real", whole.wide)


def _size(args: tuple[Given, ...], attrs: Attrs) -> Type:
    return join(args, "real" if join_dtype(args) == "complex" else None)


def _wide(args: tuple[Given, ...], attrs: Attrs) -> Type:
    whole = join(args)
    return Type(whole.kind, whole.axes, "complex" if whole.dtype == "complex" else "real", True)


def _narrow(args: tuple[Given, ...], attrs: Attrs) -> Type:
    """Of complex numbers there are no halves."""
    whole = join(args)
    return Type(whole.kind, whole.axes, whole.dtype, whole.dtype == "complex" and whole.wide)


_ROOT = math.sqrt(2 / math.pi)
Slope = Callable[[Node, Node], Operand]


@dataclass(frozen=True)
class _Function:
    """A real function of one value: whether it maps 0 to 0, and its slope from y = f(x) and x."""

    zero: bool
    slope: Slope


def _silu_slope(y: Node, x: Node) -> Operand:
    s = of("sigmoid", x)
    return s * (1 + x * (1 - s))


def _gelu_slope(y: Node, x: Node) -> Operand:
    """The normal distribution's function plus x times its density."""
    return 0.5 * (1 + of("erf", math.sqrt(0.5) * x)) + (_ROOT / 2) * x * of("exp", -0.5 * (x * x))


def _gelu_tanh_slope(y: Node, x: Node) -> Operand:
    """Of `y = x sigmoid(2 z)`, in which nothing cancels where x is far below 0; a kernel has the sigmoid from y."""
    square = x * x
    s = of("sigmoid", 2 * _ROOT * (x + 0.044715 * (square * x)))
    return s + 2 * _ROOT * y * (1 - s) * (1 + 3 * 0.044715 * square)


SMALLEST = 2.0**-126
"""The smallest number of full precision in single precision: chips take what is below for 0."""


def _sqrt_slope(y: Node, x: Node) -> Operand:
    """None at 0, where it is infinite: what x is made of mostly has none there (a norm, relu), and 0 * inf is nan."""
    return where(x > SMALLEST, 0.5 * of("rsqrt", x), 0)


_FN = {
    "exp": _Function(False, lambda y, x: y),
    "expm1": _Function(True, lambda y, x: of("exp", x)),
    "log": _Function(False, lambda y, x: 1 / x),
    "log1p": _Function(True, lambda y, x: 1 / (1 + x)),
    "sqrt": _Function(True, _sqrt_slope),
    "rsqrt": _Function(False, lambda y, x: -0.5 * (y * y * y)),
    "sin": _Function(True, lambda y, x: of("cos", x)),
    "cos": _Function(False, lambda y, x: -of("sin", x)),
    "tanh": _Function(True, lambda y, x: 1 - y * y),
    "erf": _Function(True, lambda y, x: 2 / math.sqrt(math.pi) * of("exp", -(x * x))),
    "sigmoid": _Function(False, lambda y, x: y * (1 - y)),
    "silu": _Function(True, _silu_slope),
    "gelu": _Function(True, _gelu_slope),
    "gelu_tanh": _Function(True, _gelu_tanh_slope),
    "relu": _Function(True, lambda y, x: where(x > 0, 1, 0)),
    "softplus": _Function(False, lambda y, x: of("sigmoid", x)),
    "inv_softplus": _Function(False, lambda y, x: -1 / of("expm1", -x)),
}
UNARY = ("neg", "abs", "sign", *_FN)


def _times(slope: Slope) -> Slopes:
    return lambda d, y, x: (d * slope(y, x),)


def _minimum(d: Node, y: Node, a: Node, b: Node) -> tuple[Operand, ...]:
    """Of equals the first counts, so that a clipped value still learns at the edge."""
    first = a <= b
    return where(first, d, 0), where(first, 0, d)


def _maximum(d: Node, y: Node, a: Node, b: Node) -> tuple[Operand, ...]:
    first = b <= a
    return where(first, d, 0), where(first, 0, d)


def _quotient(d: Node, y: Node, a: Node, b: Node) -> tuple[Operand, ...]:
    each = d / b
    return each, -(each * y)


def _pow(d: Node, y: Node, a: Node, b: Node) -> tuple[Operand, ...]:
    """The exponent learns where the base is positive, a base of 0 where its slope is finite (see `_sqrt_slope`)."""
    positive = a > 0
    slope = d * b * of("pow", a, b - 1)
    if not (b.is_number() and b.value >= 1):
        slope = where(of("and", of("abs", a) <= SMALLEST, of("lt", b, 1)), 0, slope)
    return slope, where(positive, d * y * of("log", where(positive, a, 1)), 0)


def _through(d: Node, y: Node, x: Node) -> tuple[Operand, ...]:
    return (d,)


def _op(
    name: str,
    infer: Infer,
    bound: Callable[[Value, Found], Support],
    derivative: Derivative,
    flow: Flow = "pointwise",
) -> Op:
    return Op(
        name=name,
        infer=infer,
        flops=cost.free if flow == "alias" else cost.pointwise,
        support=bound,
        state=memory.nothing,
        flow=flow,
        derivative=derivative,
    )


OPS = (
    _op("add", _same, support.joins, lambda d, y, a, b: (d, d)),
    _op("sub", _same, support.joins, lambda d, y, a, b: (d, -d)),
    _op("mul", _same, support.meets, lambda d, y, a, b: (d * b, d * a)),
    _op("minimum", _same, support.joins, _minimum),
    _op("maximum", _same, support.joins, _maximum),
    _op("div", _real, support.quotient, _quotient),
    _op("pow", _real, support.power, _pow),
    _op("eq", _truth, support.everywhere, "zero"),
    _op("ne", _truth, support.everywhere, "zero"),
    _op("lt", _truth, support.everywhere, "zero"),
    _op("le", _truth, support.everywhere, "zero"),
    _op("gt", _truth, support.everywhere, "zero"),
    _op("ge", _truth, support.everywhere, "zero"),
    _op("and", _truth, support.both, "zero"),
    _op("or", _truth, support.either, "zero"),
    _op("not", _truth, support.everywhere, "zero"),
    _op("neg", _same, support.keeps, lambda d, y, x: (-d,)),
    _op("abs", _size, support.keeps, lambda d, y, x: (d * of("sign", x),)),
    _op("sign", _same, support.keeps, "zero"),
    *(_op(n, _real, support.keeps if f.zero else support.everywhere, _times(f.slope)) for n, f in _FN.items()),
    _op("where", _where, support.choice, lambda d, y, c, a, b: (0, where(c, d, 0), where(c, 0, d))),
    _op("complex", _complex, support.joins, "framework"),
    _op("real", _part, support.keeps, "framework"),
    _op("imag", _part, support.keeps, "framework"),
    # at least single precision; float64 stays
    _op("fp32", _wide, support.keeps, _through, flow="alias"),
    _op("narrow", _narrow, support.keeps, _through, flow="alias"),
)
