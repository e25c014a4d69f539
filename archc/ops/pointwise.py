"""Element-wise ops: arithmetic, comparison, logic, functions of one value, `where`, complex parts, `fp32`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from archc.ir.graph import Operand, Type, Value
from archc.ops import cost, memory, support
from archc.ops.base import Attrs, Flow, Infer, Op, join, join_dtype
from archc.ops.frame import Array, elementwise
from archc.ops.support import Found, Support


def _same(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    return join(args)


def _real(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    return join(args, "complex" if join_dtype(args) == "complex" else "real")


def _truth(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    return join(args, "bool")


def _where(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    whole = join(args)
    branches = join_dtype(args[1:])
    wide = any(isinstance(a, Value) and a.type.wide for a in args[1:])
    return Type(whole.kind, whole.axes, branches, wide)


def _complex(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    whole = join(args)
    return Type(whole.kind, whole.axes, "complex", True)


def _part(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    whole = join(args)
    return Type(whole.kind, whole.axes, "real", whole.wide)


def _wide(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    whole = join(args)
    return Type(whole.kind, whole.axes, "complex" if whole.dtype == "complex" else "real", True)


def _narrow(args: tuple[Operand, ...], attrs: Attrs) -> Type:
    whole = join(args)
    return Type(whole.kind, whole.axes, whole.dtype, False)


def _number(x: Array) -> Array:
    """Truth values count as 0 and 1 in arithmetic, whole numbers as real in division and powers."""
    return x.astype(np.float64) if x.dtype.kind in "bi" else x


def _arithmetic(fn: Callable[..., Array]) -> Callable[..., Array]:
    return lambda *operands: fn(*(x.astype(np.int64) if x.dtype.kind == "b" else x for x in operands))


def _of_reals(fn: Callable[..., Array]) -> Callable[..., Array]:
    return lambda *operands: fn(*map(_number, operands))


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


_erf = np.vectorize(math.erf, otypes=[np.float64])
_FN: dict[str, tuple[Callable[..., Array], bool]] = {  # the function, and whether it maps 0 to 0
    "exp": (np.exp, False),
    "expm1": (np.expm1, True),
    "log": (np.log, False),
    "log1p": (np.log1p, True),
    "sqrt": (np.sqrt, True),
    "rsqrt": (lambda x: 1 / np.sqrt(x), False),
    "sin": (np.sin, True),
    "cos": (np.cos, False),
    "tanh": (np.tanh, True),
    "sigmoid": (_sigmoid, False),
    "silu": (lambda x: x * _sigmoid(x), True),
    "gelu": (lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))), True),
    "gelu_tanh": (lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), True),
    "relu": (lambda x: np.maximum(x, 0), True),
    "softplus": (lambda x: np.logaddexp(0, x), False),
    "inv_softplus": (lambda y: y + np.log(-np.expm1(-y)), False),
}
UNARY = ("neg", "abs", "sign", *_FN)


def _op(
    name: str,
    infer: Infer,
    fn: Callable[..., Array],
    bound: Callable[[Value, Found], Support],
    flow: Flow = "pointwise",
) -> Op:
    return Op(
        name=name,
        infer=infer,
        reference=elementwise(fn),
        flops=cost.free if flow == "alias" else cost.pointwise,
        support=bound,
        state=memory.nothing,
        flow=flow,
    )


OPS = (
    _op("add", _same, _arithmetic(np.add), support.joins),
    _op("sub", _same, _arithmetic(np.subtract), support.joins),
    _op("mul", _same, _arithmetic(np.multiply), support.meets),
    _op("minimum", _same, _arithmetic(np.minimum), support.joins),
    _op("maximum", _same, _arithmetic(np.maximum), support.joins),
    _op("div", _real, _of_reals(np.divide), support.quotient),
    _op("pow", _real, _of_reals(np.power), support.power),
    _op("eq", _truth, np.equal, support.everywhere),
    _op("ne", _truth, np.not_equal, support.everywhere),
    _op("lt", _truth, np.less, support.everywhere),
    _op("le", _truth, np.less_equal, support.everywhere),
    _op("gt", _truth, np.greater, support.everywhere),
    _op("ge", _truth, np.greater_equal, support.everywhere),
    _op("and", _truth, np.logical_and, support.both),
    _op("or", _truth, np.logical_or, support.either),
    _op("not", _truth, np.logical_not, support.everywhere),
    _op("neg", _same, _arithmetic(np.negative), support.keeps),
    _op("abs", _same, _arithmetic(np.abs), support.keeps),
    _op("sign", _same, _arithmetic(np.sign), support.keeps),
    *(_op(n, _real, _of_reals(f), support.keeps if zero else support.everywhere) for n, (f, zero) in _FN.items()),
    _op("where", _where, np.where, support.choice),
    _op("complex", _complex, lambda a, b: a + 1j * b, support.joins),
    _op("real", _part, np.real, support.keeps),
    _op("imag", _part, np.imag, support.keeps),
    _op("fp32", _wide, _of_reals(np.asarray), support.keeps, flow="alias"),  # at least single precision; float64 stays
    _op("narrow", _narrow, np.asarray, support.keeps, flow="alias"),
)
