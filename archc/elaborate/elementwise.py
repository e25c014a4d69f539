"""The builtins that work element by element, and those that reduce axes."""

from __future__ import annotations

from archc.elaborate.bound import Bound
from archc.elaborate.given import Given
from archc.elaborate.numbers import ARITHMETIC, FUNCTIONS, Num, merge_roots
from archc.ir.graph import Operand, Value


def unary(given: Given) -> Bound:
    """`exp(x)` and its like: exact on numbers as far as that goes."""
    bound = given.bound()
    if isinstance(bound, Num):
        try:
            return Num(FUNCTIONS[given.name](bound.value), bound.roots)
        except (ValueError, OverflowError, ZeroDivisionError):
            given.frame.fail("E203", f"cannot compute {given.name}({bound})", given.node, *bound.roots)
    if given.name in ("ceil", "floor"):
        given.frame.number(bound, given.positional[0], given.what(0))
    operand = given.frame.operand(bound, given.positional[0], given.what(0))
    return given.add(given.name, given.frame.widen(operand, given.node) if given.frame.wide else operand)


def extreme(given: Given) -> Bound:
    """`max(a, b)` element-wise, `max(x, over = ...)` as a reduction."""
    if len(given.positional) == 1:
        return reduce(given)
    if given.named:
        given.misused(f"'{given.name}' of two values has no '{next(iter(given.named))}'")
    a, b = given.bound(0), given.bound(1)
    if isinstance(a, Num) and isinstance(b, Num):
        return Num(ARITHMETIC[given.name](a.value, b.value), merge_roots(a, b))
    op = {"min": "minimum", "max": "maximum"}[given.name]
    frame = given.frame
    args = [frame.operand(x, p, given.what(i)) for i, (x, p) in enumerate(zip((a, b), given.positional, strict=True))]
    return _joined(op, args, given)


def _joined(op: str, args: list[Operand], given: Given) -> Value:
    if given.frame.wide:
        args = [given.frame.widen(a, given.node) for a in args]
    return given.add(op, *args)


def clip(given: Given) -> Value:
    """`clip(x, low, high)`."""
    raised = _joined("maximum", [given.value(0), given.operand(1)], given)
    given.frame.call.nodes.setdefault(raised, given.node)  # both bounds were written here
    return _joined("minimum", [raised, given.operand(2)], given)


def where(given: Given) -> Value:
    """`where(condition, a, b)`: the condition is a value, since a spec has no conditionals."""
    return given.add("where", given.value(0), given.operand(1), given.operand(2))


def complex_(given: Given) -> Value:
    """`complex(re, im)`."""
    return given.add("complex", given.operand(0), given.operand(1))


def fp32(given: Given) -> Value:
    """`fp32(...)`: what stands inside is computed in single precision."""
    inner = given.frame.at(wide=True)
    bound = given.frame.walker.evaluate(given.positional[0], inner)
    value = given.frame.value(bound, given.positional[0], given.what(0))
    widened = given.frame.widen(value, given.node)
    assert isinstance(widened, Value)
    return widened


# --- reductions --------------------------------------------------------------------------------------


def _over(given: Given, value: Operand) -> tuple[str, ...]:
    if "over" in given.named:
        return given.axes("over")
    return value.names if isinstance(value, Value) else ()


def reduce(given: Given) -> Value:
    """`sum`, `mean`, `min`, `max` over feature axes, keys or time; means are statistics, in single precision."""
    name = given.name
    wide = given.frame.at(wide=True) if name == "mean" else given.frame
    node = given.positional[0]
    value = given.frame.operand(given.frame.walker.evaluate(node, wide), node, given.what(0))
    over = _over(given, value)
    if "keys" in over:
        return given.add("reduce_keys", value, fn=name, over=tuple(n for n in over if n != "keys"))
    if "time" in over:
        return given.add("reduce_time", value, fn=name, over=tuple(n for n in over if n != "time"))
    return given.add("reduce", value, fn=name, over=over)


def softmax(given: Given) -> Value:
    """`softmax(x, over = axis)`, `softmax(scores, over = keys, where = mask)`."""
    value = given.operand()
    over = _over(given, value)
    args = [value, given.called("where")] if "where" in given.named else [value]
    if over == ("keys",):
        return given.add("softmax_keys", *args)
    if "time" in over or "keys" in over:
        given.misused(f"a softmax over [{' '.join(over)}] is not defined")
    return given.add("softmax", *args, over=over)


def along(given: Given) -> Value:
    """`cumsum` and `argmax`: along one axis."""
    value = given.operand()
    over = _over(given, value)
    if len(over) != 1 and isinstance(value, Value):
        given.misused(f"'{given.name}' runs along one axis, not along {len(over)}")
    return given.add(given.name, value, over=over)


def top(given: Given) -> Value:
    """`top(x, k, over = axis)`: true at the k largest."""
    over = given.axes("over")
    if len(over) != 1:
        given.misused(f"'top' runs along one axis, not along {len(over)}")
    return given.add("top", given.value(), k=given.whole(given.positional[1], "how many"), over=over)


def dot(given: Given) -> Value:
    """`dot(a, b, over = axes)`: the sum of a product."""
    left, right = given.value(0), given.value(1)
    over = given.axes("over")
    if "keys" in over:
        return given.add("contract_keys", left, right, over=tuple(n for n in over if n != "keys"))
    if "time" in over:
        product = given.add("mul", left, right)
        return given.add("reduce_time", product, fn="sum", over=tuple(n for n in over if n != "time"))
    return given.add("contract", left, right, over=over)
