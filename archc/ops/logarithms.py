"""Roots, powers and logarithms of what is made of exponentials, by way of its logarithm.

In single precision `sigmoid(x)` is 0 below -104, where its root has no slope (0 times infinity) and its logarithm no
value; `-softplus(-x)`, the logarithm written out, has both for every x. So has that of an exponential, whichever way it
leaves the range of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from archc.ops.node import Node, of

LEAST = 1e-37
"""What is below has no logarithm in single precision, whose normal numbers end at 1.2e-38; next to 1 it is nothing."""


def logarithm(node: Node) -> Node | None:
    """The logarithm of a node without the node itself; None if it is not made of exponentials.

    `log(exp(a) + exp(b)) = a + softplus(b - a)`; the rest are the laws of the logarithm.
    """
    match node.op, node.args:
        case "exp", (x,):
            return x
        case "sigmoid", (x,):
            return -of("softplus", -x)
        case ("mul" | "div") as op, (a, b):
            left, right = _log(a), _log(b)
            if left is None or right is None:
                return None
            if op == "div":
                return left - right
            return 2 * left if left is right else left + right
        case "add", (a, b):
            left, right = _term(a), _term(b)
            if left is None or right is None:
                return None
            if right.is_number(0):  # x + softplus(-x) would cancel far below 0
                left, right = right, left
            return left + of("softplus", right - left)
        case "sub", _:
            rest = complement(node)
            return None if rest is None else logarithm(rest)
    return None


def complement(node: Node) -> Node | None:
    """`1 - n` where n has a logarithm: that of a sigmoid is one, else `-expm1(log n)`, in which nothing cancels."""
    if node.op != "sub" or not node.args[0].is_number(1):
        return None
    (_, n) = node.args
    if n.op == "sigmoid":
        return of("sigmoid", -n.args[0])
    log = logarithm(n)
    return None if log is None else -of("expm1", log)


def power(base: Node, exponent: Node) -> Node | None:
    """`base ^ exponent` as an exponential; small whole powers are products, and underflow where they do."""
    if exponent.is_number(0.5, -0.5):
        return root(base, exponent.value)
    log = None if exponent.is_number(-1, 0, 1, 2, 3, 4) else logarithm(base)
    return None if log is None else of("exp", exponent * log)


def root(base: Node, exponent: float) -> Node | None:
    """`base ^ exponent` for 0.5 and -0.5."""
    log = logarithm(base)
    if log is not None:
        return of("exp", exponent * log)
    rest = complement(base)
    return None if rest is None else of("sqrt" if exponent > 0 else "rsqrt", rest)


def taken_log(node: Node) -> Node | None:
    """The logarithm of a node, in a better form than `log(node)`."""
    log = logarithm(node)
    if log is not None:
        return log
    rest = complement(node)
    return None if rest is None else of("log", rest)


def floored_log(node: Node) -> Node:
    """The logarithm of what is above 0 as a real number, but may be rounded to 0: finite, and flat where it is."""
    log = of("log", node)
    return of("log", of("maximum", log.args[0], LEAST)) if log.op == "log" else log


def quotient(a: Node, b: Node) -> Node | None:
    """`a / (1 + exp(z))` as a sigmoid, and one term of two exponentials by their sum."""
    if b.op != "add":
        return None
    p, q = (_term(each) for each in b.args)
    if p is None or q is None:
        return None
    mine = _term(a)
    if mine is p:
        return of("sigmoid", p - q)
    if mine is q:
        return of("sigmoid", q - p)
    for one, other in ((p, q), (q, p)):
        if one.is_number(0):
            return a * of("sigmoid", -other)
    return None


def _log(node: Node) -> Node | None:
    """The logarithm of a factor; 0 for a factor of 1."""
    return node.home.number(0) if node.is_number(1) else logarithm(node)


def _term(node: Node) -> Node | None:
    """The exponent of a summand: of 1 it is 0. Sums of anything else are what they are."""
    return _log(node) if node.op == "exp" or node.is_number(1) else None


BETTER: Mapping[str, Callable[..., Node | None]] = {
    "pow": power,
    "sqrt": lambda x: root(x, 0.5),
    "rsqrt": lambda x: root(x, -0.5),
    "log": taken_log,
    "log1p": lambda x: taken_log(1 + x),
    "div": quotient,
}
"""By op: the better form on these operands, None if there is none."""
