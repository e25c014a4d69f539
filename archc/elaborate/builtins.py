"""The functions of the language: what each takes and which ops it becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from archc.diagnostics import closest
from archc.elaborate.axes import axis_names, axis_size, plain_axes
from archc.elaborate.bound import ARITHMETIC, FUNCTIONS, Axes, Bound, Num, merge_roots
from archc.elaborate.frame import Frame
from archc.ir.graph import Axis, Kind, Operand, Type, Value
from archc.ops.pair import MASKS
from archc.ops.pointwise import UNARY
from archc.text import ast

AXES_ARGUMENTS = frozenset({"over", "per"})


@dataclass(frozen=True, eq=False)
class Given:
    """The arguments of one call of a builtin."""

    name: str
    node: ast.Call
    frame: Frame
    positional: tuple[ast.Expr, ...]
    named: dict[str, ast.Expr]
    arrow: ast.Arrow | None

    def operand(self, index: int) -> Operand:
        """A positional argument as a value or a number."""
        node = self.positional[index]
        what = f"argument {index + 1} of '{self.name}'"
        return self.frame.operand(self.frame.walker.evaluate(node, self.frame), node, what)

    def value(self, index: int = 0) -> Value:
        """A positional argument as a value."""
        node = self.positional[index]
        what = f"argument {index + 1} of '{self.name}'"
        return self.frame.value(self.frame.walker.evaluate(node, self.frame), node, what)

    def number(self, node: ast.Expr, what: str) -> Num:
        """An argument as a number."""
        return self.frame.number(self.frame.walker.evaluate(node, self.frame), node, what)

    def whole(self, node: ast.Expr, what: str) -> int:
        """An argument as a whole number."""
        return self.frame.whole(self.frame.walker.evaluate(node, self.frame), node, what)

    def axes(self, name: str) -> tuple[str, ...]:
        """A named argument as axis names."""
        return axis_names(self.named[name], self.frame).names

    def add(self, op: str, *args: Operand, **attrs: object) -> Value:
        """Adds the op at the call."""
        return self.frame.add(op, args, self.node, attrs)


def apply(name: str, node: ast.Call, frame: Frame) -> Bound:
    """Calls a builtin: checks the shape of the arguments, then builds."""
    rule = RULES[name]
    if node.label is not None:
        frame.fail("E113", f"'{name}' has no instance to label", node.label)
    positional: list[ast.Expr] = []
    named: dict[str, ast.Expr] = {}
    arrow: ast.Arrow | None = None
    for arg in node.args:
        if isinstance(arg.value, ast.Arrow):
            arrow = arg.value
        elif arg.name is None:
            positional.append(arg.value)
        else:
            if arg.name.text not in rule.names:
                hint = closest(arg.name.text, rule.names)
                free = name == "pick" and not named
                if not free:
                    frame.fail(
                        "E103",
                        f"'{name}' has no argument '{arg.name.text}'" + (f"; {hint}" if hint else ""),
                        arg.name,
                        help=f"write {rule.usage}",
                    )
            named[arg.name.text] = arg.value
    low, high = rule.counts
    wrong_arrow = (arrow is not None) != rule.arrow
    missing = [n for n in rule.required if n not in named]
    if not low <= len(positional) <= high or wrong_arrow or missing:
        frame.fail("E106", f"'{name}' is not called like this", node, help=f"write {rule.usage}")
    return rule.build(Given(name, node, frame, tuple(positional), named, arrow))


# --- element-wise ------------------------------------------------------------------------------------


def _unary(given: Given) -> Bound:
    name = given.name
    bound = given.frame.walker.evaluate(given.positional[0], given.frame)
    if isinstance(bound, Num):
        if name not in FUNCTIONS:
            given.frame.fail("E210", f"'{name}' takes a value, not a number", given.positional[0])
        try:
            return Num(FUNCTIONS[name](bound.value), bound.roots)
        except (ValueError, OverflowError, ZeroDivisionError) as why:
            notes = tuple(r.note for r in bound.roots)
            given.frame.fail("E203", f"cannot compute {name}({bound}): {why}", given.node, *notes)
    if name in ("ceil", "floor"):
        given.frame.fail("E211", f"'{name}' takes a number known when compiling", given.positional[0])
    operand = given.frame.operand(bound, given.positional[0], f"the argument of '{name}'")
    return given.add(name, given.frame.widen(operand, given.node) if given.frame.wide else operand)


def _extreme(given: Given) -> Bound:
    """`max(a, b)` element-wise, `max(x, over = ...)` as a reduction."""
    name = given.name
    if len(given.positional) == 1:
        return _reduce(given)
    bounds = [given.frame.walker.evaluate(p, given.frame) for p in given.positional]
    if all(isinstance(b, Num) for b in bounds):
        a, b = (x for x in bounds if isinstance(x, Num))
        return Num(ARITHMETIC[name](a.value, b.value), merge_roots(a, b))
    args = [given.frame.operand(b, p, f"'{name}'") for b, p in zip(bounds, given.positional, strict=True)]
    return _joined({"min": "minimum", "max": "maximum"}[name], args, given)


def _joined(op: str, args: list[Operand], given: Given) -> Value:
    if given.frame.wide:
        args = [given.frame.widen(a, given.node) for a in args]
    return given.add(op, *args)


def _clip(given: Given) -> Value:
    value, low, high = (given.operand(i) for i in range(3))
    return _joined("minimum", [_joined("maximum", [value, low], given), high], given)


def _where(given: Given) -> Value:
    return given.add("where", *(given.operand(i) for i in range(3)))


def _complex(given: Given) -> Value:
    return given.add("complex", given.operand(0), given.operand(1))


def _fp32(given: Given) -> Bound:
    inner = given.frame.at(wide=True)
    bound = given.frame.walker.evaluate(given.positional[0], inner)
    value = given.frame.value(bound, given.positional[0], "the argument of 'fp32'")
    return given.frame.widen(value, given.node)


# --- reductions --------------------------------------------------------------------------------------


def _over(given: Given, value: Value) -> tuple[str, ...]:
    return given.axes("over") if "over" in given.named else value.names


def _reduce(given: Given) -> Value:
    name = given.name
    wide = given.frame.at(wide=True) if name == "mean" else given.frame
    node = given.positional[0]
    value = given.frame.value(given.frame.walker.evaluate(node, wide), node, f"the argument of '{name}'")
    over = _over(given, value)
    args: list[Operand] = [value]
    if "where" in given.named:
        args.append(_mask(given))
    if "keys" in over:
        return given.add("reduce_keys", *args, fn=name, over=tuple(n for n in over if n != "keys"))
    if "time" in over:
        return given.add("reduce_time", value, fn=name, over=tuple(n for n in over if n != "time"))
    if len(args) > 1:
        given.frame.fail("E106", f"'{name}' takes where = only over keys", given.named["where"])
    return given.add("reduce", value, fn=name, over=over)


def _mask(given: Given) -> Value:
    node = given.named["where"]
    return given.frame.value(given.frame.walker.evaluate(node, given.frame), node, "the mask")


def _softmax(given: Given) -> Value:
    value = given.value()
    over = _over(given, value)
    args = [value, _mask(given)] if "where" in given.named else [value]
    if over == ("keys",):
        return given.add("softmax_keys", *args)
    if "time" in over:
        given.frame.fail("E312", "softmax over time needs pairs", given.node, help="lift with keys(...), over = keys")
    return given.add("softmax", *args, over=over)


def _cumsum(given: Given) -> Value:
    value = given.value()
    over = _over(given, value)
    if len(over) != 1:
        given.frame.fail("E106", "cumsum runs over one axis", given.node, help="write cumsum(x, over = axis)")
    return given.add("cumsum", value, over=over)


def _argmax(given: Given) -> Value:
    value = given.value()
    over = _over(given, value)
    if len(over) != 1:
        given.frame.fail("E106", "argmax runs over one axis", given.node, help="write argmax(x, over = axis)")
    return given.add("argmax", value, over=over)


def _top(given: Given) -> Value:
    return given.add("top", given.value(), k=given.whole(given.positional[1], "how many"), over=given.axes("over"))


def _dot(given: Given) -> Value:
    left, right = given.value(0), given.value(1)
    over = given.axes("over")
    if "keys" in over:
        return given.add("contract_keys", left, right, over=tuple(n for n in over if n != "keys"))
    if "time" in over:
        product = given.add("mul", left, right)
        return given.add("reduce_time", product, fn="sum", over=tuple(n for n in over if n != "time"))
    return given.add("contract", left, right, over=over)


# --- shapes ------------------------------------------------------------------------------------------


def _sides(given: Given) -> tuple[tuple[str, ...], tuple[str, ...]]:
    assert given.arrow is not None
    left = plain_axes(given.arrow.left, given.frame) if given.arrow.left is not None else ()
    return left, plain_axes(given.arrow.right, given.frame)


def _split(given: Given) -> Value:
    value = given.value()
    (axis, *more), right = _sides(given)
    if more:
        given.frame.fail("E106", "split takes one axis apart", given.node, help=given_usage("split"))
    into = tuple(Axis(n, axis_size(n, given.node, given.frame)) for n in right)
    have, total = value.type.sizes.get(axis), prod(a.size for a in into)
    if have is not None and have != total:
        parts = " * ".join(f"{a.name}={a.size}" for a in into)
        given.frame.fail("E223", f"'{axis}' is {have}, but {parts} is {total}", given.node)
    return given.add("split", value, axis=axis, into=into)


def _merge(given: Given) -> Value:
    value = given.value()
    left, right = _sides(given)
    if len(right) != 1:
        given.frame.fail("E106", "merge makes one axis", given.node, help=given_usage("merge"))
    return given.add("merge", value, axes=left, into=right[0])


def _cut(given: Given) -> tuple[Bound, ...]:
    value = given.value()
    (axis, *more), right = _sides(given)
    if more:
        given.frame.fail("E106", "cut takes one axis apart", given.node, help=given_usage("cut"))
    pieces = [Axis(n, axis_size(n, given.node, given.frame)) for n in right]
    have, total = value.type.sizes.get(axis), sum(p.size for p in pieces)
    if have is not None and have != total:
        parts = " + ".join(f"{p.name}={p.size}" for p in pieces)
        given.frame.fail("E223", f"'{axis}' is {have}, but {parts} is {total}", given.node)
    out: list[Bound] = []
    start = 0
    for piece in pieces:
        out.append(given.add("slice", value, axis=axis, start=start, size=piece.size, into=piece.name))
        start += piece.size
    return tuple(out)


def _join(given: Given) -> Value:
    values = [given.value(i) for i in range(len(given.positional))]
    left, right = _sides(given)
    if len(right) != 1:
        given.frame.fail("E106", "join makes one axis", given.node, help=given_usage("join"))
    assert given.arrow is not None
    if given.arrow.left is None:
        return given.add("stack_axis", *values, into=right[0])
    if len(left) != len(values):
        given.frame.fail("E223", f"{len(values)} values but {len(left)} axes to join", given.node)
    return given.add("concat", *values, pieces=left, into=right[0])


def _pick(given: Given) -> Value:
    value = given.value()
    ((axis, node),) = given.named.items()
    return given.add("pick", value, axis=axis, at=given.whole(node, "the index"))


def _index(given: Given) -> Value:
    node = given.positional[0]
    if not isinstance(node, ast.Name):
        given.frame.fail("E220", "index takes the name of an axis", node)
    return given.add("index", axis=node.text, size=axis_size(node.text, node, given.frame))


def _axes(given: Given) -> Axes:
    return Axes(given.value().names)


# --- time and pairs ----------------------------------------------------------------------------------


def _conv(given: Given) -> Value:
    x, w = given.value(0), given.value(1)
    taps = [n for n in w.names if n not in x.names]
    _as_filter(given, w, taps)
    name = f"conv_{given.frame.target}" if given.frame.target else "conv"
    return given.add("conv", x, w, taps=taps[0] if taps else "", state=given.frame.call.instance.state(name))


def _as_filter(given: Given, weight: Value, taps: list[str]) -> None:
    """A weight that is a filter starts as one: normal over its taps."""
    builder = given.frame.builder
    while builder is not None:
        for draft in builder.weights:
            if draft.value is weight and draft.role == "bias":
                draft.role, draft.contracted = "matrix", tuple(taps)
        if builder.parent is None:
            return
        builder = builder.parent


def _prev(given: Given) -> Value:
    value = given.value()
    name = given.frame.call.instance.state(f"prev_{value.label or 'x'}")
    return given.add("prev", value, state=name)


def _scan(given: Given) -> Value:
    decay, entering = (
        given.frame.operand(given.frame.walker.evaluate(given.named[n], given.frame), given.named[n], f"'{n}'")
        for n in ("decay", "input")
    )
    name = given.frame.call.instance.state(given.frame.target or "h")
    return given.add(given.name, decay, entering, state=name)


def _queries(given: Given) -> Value:
    return given.add("queries", given.value())


def _keys(given: Given) -> Value:
    value = given.value()
    lifted = given.frame.builder.lifted
    if value not in lifted:
        if value.op in ("pos", "input"):
            lifted[value] = given.add("keys", value, state=given.frame.call.instance.state(value.op))
        else:
            name = given.frame.call.instance.state(value.label or "key")
            lifted[value] = given.add("keys", value, state=name)
    return lifted[value]


def _mask_of(given: Given) -> Value:
    name = given.name
    sizes = []
    for node, what in zip(given.positional, MASKS[name], strict=True):
        size = given.whole(node, f"'{what}' of {name}")
        if size < 1:
            given.frame.fail("E231", f"{name}({size}) sees nothing", node)
        sizes.append(size)
    value = given.add("mask", name=name, sizes=tuple(sizes))
    value.label = given.node.span.text
    return value


def _random(given: Given) -> Value:
    builder = given.frame.builder
    if builder.name != "init":
        given.frame.fail("E114", f"'{given.name}' stands only in init", given.node)
    params = tuple(given.number(n, "a parameter").plain for n in given.positional)
    axes = builder.params[0].type.axes
    return given.add("random", how=given.name, params=params, type=Type(Kind.WEIGHT, axes, "real", True))


@dataclass(frozen=True)
class Rule:
    """How a builtin is called, and what builds it."""

    build: Callable[[Given], Bound]
    usage: str
    counts: tuple[int, int] = (1, 1)
    names: frozenset[str] = frozenset()
    required: tuple[str, ...] = ()
    arrow: bool = False


def given_usage(name: str) -> str:
    """How a builtin is written."""
    return f"write {RULES[name].usage}"


_OVER = frozenset({"over"})

RULES: dict[str, Rule] = {
    **{name: Rule(_unary, f"{name}(x)") for name in (*UNARY, "ceil", "floor", "real", "imag") if name != "neg"},
    "min": Rule(_extreme, "min(a, b) or min(x, over = axis)", (1, 2), _OVER),
    "max": Rule(_extreme, "max(a, b) or max(x, over = axis)", (1, 2), _OVER),
    "clip": Rule(_clip, "clip(x, low, high)", (3, 3)),
    "where": Rule(_where, "where(condition, a, b)", (3, 3)),
    "complex": Rule(_complex, "complex(re, im)", (2, 2)),
    "fp32": Rule(_fp32, "fp32(x)"),
    "sum": Rule(_reduce, "sum(x, over = axis)", (1, 1), frozenset({"over", "where"})),
    "mean": Rule(_reduce, "mean(x, over = axis)", (1, 1), frozenset({"over", "where"})),
    "softmax": Rule(_softmax, "softmax(x, over = axis, where = mask)", (1, 1), frozenset({"over", "where"})),
    "cumsum": Rule(_cumsum, "cumsum(x, over = axis)", (1, 1), _OVER),
    "argmax": Rule(_argmax, "argmax(x, over = axis)", (1, 1), _OVER),
    "top": Rule(_top, "top(x, k, over = axis)", (2, 2), _OVER, ("over",)),
    "dot": Rule(_dot, "dot(a, b, over = axis)", (2, 2), _OVER, ("over",)),
    "split": Rule(_split, "split(x, axis -> a b)", arrow=True),
    "merge": Rule(_merge, "merge(x, a b -> axis)", arrow=True),
    "cut": Rule(_cut, "a, b = cut(x, axis -> a b)", arrow=True),
    "join": Rule(_join, "join(x, y, a b -> axis) or join(x, y, -> axis)", (1, 99), arrow=True),
    "pick": Rule(_pick, "pick(x, axis = index)"),
    "index": Rule(_index, "index(axis)"),
    "axes": Rule(_axes, "axes(x)"),
    "conv": Rule(_conv, "conv(x, w[taps axis])", (2, 2)),
    "prev": Rule(_prev, "prev(x)"),
    "scan": Rule(_scan, "scan(decay = a, input = u)", (0, 0), frozenset({"decay", "input"}), ("decay", "input")),
    "maxscan": Rule(_scan, "maxscan(decay = f, input = i)", (0, 0), frozenset({"decay", "input"}), ("decay", "input")),
    "queries": Rule(_queries, "queries(t)"),
    "keys": Rule(_keys, "keys(t)"),
    "window": Rule(_mask_of, "window(n)"),
    "near": Rule(_mask_of, "near(n)"),
    "prefix": Rule(_mask_of, "prefix(n)"),
    "dilated": Rule(_mask_of, "dilated(n, step)", (2, 2)),
    "normal": Rule(_random, "normal(std)"),
    "uniform": Rule(_random, "uniform(low, high)", (2, 2)),
    "log_uniform": Rule(_random, "log_uniform(low, high)", (2, 2)),
    "orthogonal": Rule(_random, "orthogonal()", (0, 0)),
}

NAMES: frozenset[str] = frozenset(RULES) | frozenset(MASKS) | {"stack"}

