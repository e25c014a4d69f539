"""Element-wise ops in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from archc.reference.frame import Array, Evaluate, elementwise


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


_FN: dict[str, Callable[..., Array]] = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "erf": _erf,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "softplus": lambda x: np.logaddexp(0, x),
    "inv_softplus": lambda y: y + np.log(-np.expm1(-y)),
}
_ALL: dict[str, Callable[..., Array]] = {
    "add": _arithmetic(np.add),
    "sub": _arithmetic(np.subtract),
    "mul": _arithmetic(np.multiply),
    "minimum": _arithmetic(np.minimum),
    "maximum": _arithmetic(np.maximum),
    "div": _of_reals(np.divide),
    "pow": _of_reals(np.power),
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "neg": _arithmetic(np.negative),
    "abs": _arithmetic(np.abs),
    "sign": _arithmetic(np.sign),
    **{name: _of_reals(fn) for name, fn in _FN.items()},
    "where": np.where,
    "complex": lambda a, b: a + 1j * b,
    "real": np.real,
    "imag": np.imag,
    "fp32": _of_reals(np.asarray),  # at least single precision: float64 stays
    "narrow": np.asarray,
}
RULES: dict[str, Evaluate] = {name: elementwise(fn) for name, fn in _ALL.items()}
