"""What element-wise expressions are rewritten to while they are made.

Every finite value stays the same to the last bit (`x * 1`, `2 * (4 * x)` up to the rounding of one product,
`a - (-b)`), except that zero times anything is zero, and that roots, powers, logarithms and quotients of exponentials
take the form that keeps value and slope where those underflow or overflow (`archc.ops.logarithms`).
"""

from __future__ import annotations

from collections.abc import Callable

from archc.ops.logarithms import BETTER
from archc.ops.node import Node, Operand, Simpler, of, where


def _add(nodes: tuple[Node, ...]) -> Node | None:
    a, b = nodes
    if a.is_number(0):
        return b
    if b.is_number(0):
        return a
    if b.op == "neg":
        return a - b.args[0]
    return b - a.args[0] if a.op == "neg" else None


def _sub(nodes: tuple[Node, ...]) -> Node | None:
    a, b = nodes
    if b.is_number(0):
        return a
    if a.is_number(0):
        return -b
    return a + b.args[0] if b.op == "neg" else None


def _mul(nodes: tuple[Node, ...]) -> Node | None:
    a, b = nodes
    if b.is_number():
        return b * a
    if a.is_number(0):
        return a
    if a.is_number(1):
        return b
    if a.is_number(-1):
        return -b
    if a.op == "neg":
        return -(a.args[0] * b)
    if b.op == "neg":
        return (-a) * b.args[0] if a.is_number() else -(a * b.args[0])
    for factor, mask in ((a, b), (b, a)):
        if mask.op == "where" and mask.args[1].is_number(1) and mask.args[2].is_number(0):
            return where(mask.args[0], factor, 0)
    if a.is_number() and b.op == "mul" and b.args[0].is_number():
        return (a.value * b.args[0].value) * b.args[1]
    return None


def _div(nodes: tuple[Node, ...]) -> Node | None:
    a, b = nodes
    if a.is_number(0) or b.is_number(1):
        return a
    if b.is_number(2, 4, 8, 16, -1, -2):  # the inverse is exact
        return (1 / b.value) * a
    if a.op == "neg":
        return -(a.args[0] / b)
    return BETTER["div"](a, b)


def _neg(nodes: tuple[Node, ...]) -> Node | None:
    (a,) = nodes
    if a.op == "neg":
        return a.args[0]
    if a.op == "mul" and a.args[0].is_number():
        return -a.args[0].value * a.args[1]
    return a.args[1] - a.args[0] if a.op == "sub" else None


def _pow(nodes: tuple[Node, ...]) -> Node | None:
    base, exponent = nodes
    if base.is_number() and base.value > 0:
        return of("exp", exponent * base.home.apply("log", base))
    if exponent.is_number(0.5, -0.5):
        return of("sqrt" if exponent.value > 0 else "rsqrt", base)
    if exponent.is_number(-1):
        return 1 / base
    out: Operand = 1.0
    if exponent.is_number(0, 1, 2, 3, 4):
        for _ in range(int(exponent.value)):
            out = out * base
        return out if isinstance(out, Node) else base.home.number(out)
    return BETTER["pow"](base, exponent)


def _choice(nodes: tuple[Node, ...]) -> Node | None:
    condition, yes, no = nodes
    if condition.is_number():
        return yes if condition.value else no
    return yes if yes is no else None


def _and(nodes: tuple[Node, ...]) -> Node | None:
    a, b = nodes if nodes[0].is_number() else nodes[::-1]
    return (b if a.value else a) if a.is_number() else None


def _or(nodes: tuple[Node, ...]) -> Node | None:
    a, b = nodes if nodes[0].is_number() else nodes[::-1]
    return (a if a.value else b) if a.is_number() else None


def _better(op: str) -> Callable[[tuple[Node, ...]], Node | None]:
    """The rule of an op that `archc.ops.logarithms` has."""
    rule = BETTER[op]
    return lambda nodes: rule(*nodes)


def _same(nodes: tuple[Node, ...]) -> Node | None:
    return nodes[0]


SIMPLER: Simpler = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "pow": _pow,
    "sqrt": _better("sqrt"),
    "rsqrt": _better("rsqrt"),
    "log": _better("log"),
    "log1p": _better("log1p"),
    "where": _choice,
    "and": _and,
    "or": _or,
    "fp32": _same,  # expressions have one precision and no axes
    "narrow": _same,
    "rename": _same,
}
