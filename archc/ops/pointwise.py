"""Element-wise ops: arithmetic, comparison, logic, functions of one value, `where`, complex parts, `fp32`."""

from __future__ import annotations

from collections.abc import Callable

from archc.ir.graph import Operand, Type, Value
from archc.ops import cost, memory, support
from archc.ops.base import Attrs, Flow, Infer, Op, join, join_dtype
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


_FN: dict[str, bool] = {  # the functions of one value, and whether they map 0 to 0
    "exp": False,
    "expm1": True,
    "log": False,
    "log1p": True,
    "sqrt": True,
    "rsqrt": False,
    "sin": True,
    "cos": False,
    "tanh": True,
    "sigmoid": False,
    "silu": True,
    "gelu": True,
    "gelu_tanh": True,
    "relu": True,
    "softplus": False,
    "inv_softplus": False,
}
UNARY = ("neg", "abs", "sign", *_FN)


def _op(
    name: str,
    infer: Infer,
    bound: Callable[[Value, Found], Support],
    flow: Flow = "pointwise",
) -> Op:
    return Op(
        name=name,
        infer=infer,
        flops=cost.free if flow == "alias" else cost.pointwise,
        support=bound,
        state=memory.nothing,
        flow=flow,
    )


OPS = (
    _op("add", _same, support.joins),
    _op("sub", _same, support.joins),
    _op("mul", _same, support.meets),
    _op("minimum", _same, support.joins),
    _op("maximum", _same, support.joins),
    _op("div", _real, support.quotient),
    _op("pow", _real, support.power),
    _op("eq", _truth, support.everywhere),
    _op("ne", _truth, support.everywhere),
    _op("lt", _truth, support.everywhere),
    _op("le", _truth, support.everywhere),
    _op("gt", _truth, support.everywhere),
    _op("ge", _truth, support.everywhere),
    _op("and", _truth, support.both),
    _op("or", _truth, support.either),
    _op("not", _truth, support.everywhere),
    _op("neg", _same, support.keeps),
    _op("abs", _same, support.keeps),
    _op("sign", _same, support.keeps),
    *(_op(n, _real, support.keeps if zero else support.everywhere) for n, zero in _FN.items()),
    _op("where", _where, support.choice),
    _op("complex", _complex, support.joins),
    _op("real", _part, support.keeps),
    _op("imag", _part, support.keeps),
    _op("fp32", _wide, support.keeps, flow="alias"),  # at least single precision; float64 stays
    _op("narrow", _narrow, support.keeps, flow="alias"),
)
