"""Complex values as pairs of real expressions: what each op is of real and imaginary parts.

Kernels compute with real numbers. Complex equations are written out before anything is differentiated, so that every
derivative is that of a real op.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from archc.ir.graph import Value
from archc.ops.node import Node, of, where

PARTS = ("re", "im")
"""What the parts of a value are called behind its name."""


class Parts(NamedTuple):
    """The real and the imaginary part; the latter is the number 0 for a real value."""

    real: Node
    imag: Node


def is_complex(value: Value) -> bool:
    """Whether a value is of complex numbers."""
    return value.type.dtype == "complex"


def expands(value: Value) -> bool:
    """Whether an element-wise op with a complex operand or result can be written out."""
    return value.op in _OPS and (value.op != "pow" or value.args[1] in _POWERS)


def of_parts(op: str, operands: Sequence[Parts]) -> Parts:
    """An op on parts; real results have no imaginary part.

    >>> from archc.fuse.dag import new_nodes
    >>> a, b = (Parts(*(new_nodes().leaf(f"{x}_{part}") for part in PARTS)) for x in "ab")
    >>> of_parts("neg", [a]).imag
    neg(a_im)
    """
    return _OPS[op](*operands)


def _real(node: Node) -> Parts:
    return Parts(node, node.home.number(0))


def _times(a: Parts, b: Parts) -> Parts:
    return Parts(a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real)


def _over(a: Parts, b: Parts) -> Parts:
    if b.imag.is_number(0):
        return Parts(a.real / b.real, a.imag / b.real)
    square = b.real * b.real + b.imag * b.imag
    above = _times(a, Parts(b.real, -b.imag))
    return Parts(above.real / square, above.imag / square)


def _exp(z: Parts) -> Parts:
    """Euler's formula."""
    size = of("exp", z.real)
    return Parts(size * of("cos", z.imag), size * of("sin", z.imag))


def _sin(z: Parts) -> Parts:
    """sin(x + iy) = sin x cosh y + i cos x sinh y."""
    up, down = of("exp", z.imag), of("exp", -z.imag)
    return Parts(of("sin", z.real) * (0.5 * (up + down)), of("cos", z.real) * (0.5 * (up - down)))


def _cos(z: Parts) -> Parts:
    """cos(x + iy) = cos x cosh y - i sin x sinh y."""
    up, down = of("exp", z.imag), of("exp", -z.imag)
    return Parts(of("cos", z.real) * (0.5 * (up + down)), of("sin", z.real) * (0.5 * (down - up)))


def _pow(base: Parts, exponent: Parts) -> Parts:
    """A whole power as products."""
    one = _real(base.real.home.number(1))
    out = one
    for _ in range(abs(int(exponent.real.value))):
        out = _times(out, base)
    return out if exponent.real.value >= 0 else _over(one, out)


def _equal(a: Parts, b: Parts) -> Node:
    return of("and", of("eq", a.real, b.real), of("eq", a.imag, b.imag))


def _same(z: Parts) -> Parts:
    return z


_POWERS = (-2, -1, 0, 1, 2, 3, 4)
_OPS: Mapping[str, Callable[..., Parts]] = {
    "add": lambda a, b: Parts(a.real + b.real, a.imag + b.imag),
    "sub": lambda a, b: Parts(a.real - b.real, a.imag - b.imag),
    "mul": _times,
    "div": _over,
    "pow": _pow,
    "neg": lambda z: Parts(-z.real, -z.imag),
    "abs": lambda z: _real(of("sqrt", z.real * z.real + z.imag * z.imag)),
    "exp": _exp,
    "sin": _sin,
    "cos": _cos,
    "eq": lambda a, b: _real(_equal(a, b)),
    "ne": lambda a, b: _real(of("not", _equal(a, b))),
    "where": lambda c, a, b: Parts(where(c.real, a.real, b.real), where(c.real, a.imag, b.imag)),
    "complex": lambda a, b: Parts(a.real - b.imag, a.imag + b.real),
    "real": lambda z: _real(z.real),
    "imag": lambda z: _real(z.imag),
    "fp32": _same,  # expressions have one precision and no axes
    "narrow": _same,
    "rename": _same,
}
