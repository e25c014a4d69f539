"""Scans of outer products: what their kernels are handed, in groups of heads that share keys and queries."""

from __future__ import annotations

from dataclasses import dataclass

from archc.emit.body import Body, State
from archc.emit.code import Code, call, infix, minus, python_name
from archc.emit.factors import product
from archc.emit.kernels import kernel_of
from archc.emit.layout import reindex, transposed
from archc.emit.placed import sequence
from archc.ir.graph import Axis, Kind, Type, Value
from archc.ops.logarithms import LEAST
from archc.passes.matrix_scans import bonus_sides, grouped
from archc.passes.placed import is_placed
from archc.passes.scan_class import Factor, ScanClass
from archc.text import ast

Axes = tuple[Axis, ...]


@dataclass(frozen=True)
class OuterAxes:
    """The axes of arrays [B, T, groups, heads, key or value]; all heads of a group share keys and queries."""

    groups: Axes
    heads: Axes
    key: Axes
    value: Axes


def outer_axes(found: ScanClass) -> OuterAxes:
    """Those of a scan."""
    sizes = found.scan.type.sizes
    return OuterAxes(*(tuple(Axis(n, sizes[n]) for n in names) for names in (*grouped(found), found.key, found.value)))


def keys_and_queries(body: Body, found: ScanClass) -> tuple[Code, Code]:
    """Keys and queries as [B, T, groups, heads or 1, key]."""
    axes = outer_axes(found)
    query = found.reads[0].query
    order = (*axes.groups, *axes.heads, *axes.key)
    keys = _heads(body, *_side(body, found.factors["key"], order), axes.groups, axes.heads, axes.key)
    whole = _is_whole(query)
    return keys, _heads(body, body.render(query), query.type.axes, whole, axes.groups, axes.heads, axes.key)


def chunked(body: Body, value: Value, found: ScanClass) -> Code:
    """In groups of heads that share keys and queries: [B, T, groups, heads, key or value].

    A normaliser is a second result of the scan that it normalises.
    """
    if found.normalises is not None:
        reads = body.fused.reads.items()
        whole = next(v for v, c in reads if isinstance(c, ScanClass) and c.scan is found.normalises)
        body.render(whole)
        return Code(body.names[value])
    axes = outer_axes(found)
    groups, heads, key, inner = axes.groups, axes.heads, axes.key, axes.value
    per_key = found.kind == "chunked_key"
    log = log_decay(body, found)
    operand = found.log_decay.operand
    decay = log
    if isinstance(operand, Value):
        last = key if per_key else ()
        decay = _heads(body, log, _log_names(found), True, groups, heads, last, full=True)
    if not isinstance(operand, Value) or operand.kind is Kind.WEIGHT:
        full = [flat(body, groups), flat(body, heads), *([flat(body, key)] if per_key else [])]
        decay = body.dialect.over_time(decay, sequence(body), full)
    keys, q = keys_and_queries(body, found)
    values = (*found.factors["head"], *found.factors["value"])
    v = _heads(body, *_side(body, values, (*groups, *heads, *inner)), groups, heads, inner, full=True)
    state = states_of(body, found)
    name = body.kernel(kernel_of(found, gated=False))
    before = ", before=True" if found.before else ""
    text = f"{name}({decay.text}, {keys.text}, {v.text}, {q.text}, pos, {body.old(state)}{before})"
    if found.normaliser is not None:
        return _both(body, value, found.normaliser.reads[0].value, text, state, axes)
    code = body.hoist(value, text, state)
    if found.bonus:
        body.line(f"{code.text} = {infix('+', code, _bonus(body, found, q, groups, heads)).text}", value)
    return _from_heads(body, value, code, groups, heads, inner, len(body.lines) - 1)


def states_of(body: Body, found: ScanClass) -> State:
    """Where the state of a scan is kept, and that of its normaliser."""
    state = body.local_state(found.scan)
    return state if found.normaliser is None else (state, body.local_state(found.normaliser.scan))


def _both(body: Body, value: Value, norm: Value, text: str, state: State, axes: OuterAxes) -> Code:
    """What is read of a state, and its normaliser: two results of one call."""
    names = [_own_name(body, each, name) for each, name in ((value, "y"), (norm, "norm"))]
    place = len(body.lines)
    body.line(f"({', '.join(names)}), {body.new(state)} = {text}")
    for each, name, inner in zip((value, norm), names, (axes.value, ()), strict=True):
        body.bind(each, name)
        _from_heads(body, each, Code(name), axes.groups, axes.heads, inner, place)
    return Code(names[0])


def _own_name(body: Body, value: Value, other: str) -> str:
    """What the spec calls a value, now or further on, if that is free until then; else another name."""
    statement = body.statement
    if isinstance(statement, ast.Let) and body.call.facts.get(statement.value) is value:
        return python_name(statement.targets[0].text)
    made = [t.text for s in body.call.definition.body if isinstance(s, ast.Let) for t in s.targets]
    name = python_name(value.label or "")
    if made.count(value.label) == 1 and name not in body.names.values():
        return name
    name, count = other, 1
    while name in body.taken:
        count += 1
        name = f"{other}_{count}"
    return name


def _bonus(body: Body, found: ScanClass, q: Code, groups: Axes, heads: Axes) -> Code:
    """What the addition to the state before it is read adds to the read-out: (q . keys) values."""
    sides = bonus_sides(found)
    assert sides is not None
    sizes = found.scan.type.sizes
    key, inner = (tuple(Axis(n, sizes[n]) for n in names) for names in (found.key, found.value))
    keys = _heads(body, *_side(body, sides[0], (*groups, *heads, *key)), groups, heads, key)
    values = _heads(body, *_side(body, sides[1], (*groups, *heads, *inner)), groups, heads, inner, full=True)
    weight = body.dialect.reduce("sum", infix("*", q, keys), [-1])
    return infix("*", Code(f"{weight.atom}[..., None]"), values)


def _side(body: Body, factors: tuple[Factor, ...], order: Axes) -> tuple[Code, Axes, bool]:
    """A product of factors over the axes that they really have; and whether it has batch and time."""
    values = [f.operand for f in factors if isinstance(f.operand, Value)]
    names = {n for v in values for n in v.names}
    axes = tuple(a for a in order if a.name in names)
    return product(body, factors, axes), axes, any(map(_is_whole, values))


def _is_whole(value: Value) -> bool:
    """Whether a value is an array with batch and time."""
    return value.kind is Kind.TOKEN and not is_placed(value)


def _log_names(found: ScanClass) -> Axes:
    operand = found.log_decay.operand
    return operand.type.axes if isinstance(operand, Value) else ()


def log_decay(body: Body, found: ScanClass) -> Code:
    """The logarithm of the decay, in single precision."""
    log = found.log_decay
    if not isinstance(log.operand, Value):
        number = Code(repr(log.operand)) if found.kind == "delta" else body.operand(found.scan, 0)
        return Code("0.0") if number.text in ("1", "1.0") else call("math.log", number)
    code = body.render(log.operand)
    if not log.operand.type.wide:
        body.kernel("fp32")
        code = call("fp32", code)
    if log.form == "log_rest":
        code = body.dialect.function("log_sigmoid", minus(code))
    elif log.form != "exponent":
        code = body.dialect.two("maximum", code, Code(repr(LEAST))) if log.has_floor else code
        code = body.dialect.function(log.form, code)
    if log.times != 1:
        code = infix("*", Code(repr(log.times)), code)
    decay = found.scan.args[0]
    if log.form == "exponent" or log.operand.kind is Kind.WEIGHT or not isinstance(decay, Value) or not decay.label:
        return code
    name = f"log_{decay.label}"
    body.line(f"{name} = {code.text}", log.operand)
    return Code(name)


def flat(body: Body, axes: Axes) -> Code:
    """The product of sizes."""
    out: Code | None = None
    for axis in axes:
        code = body.size(axis.name, axis.size)
        out = code if out is None else infix("*", out, code)
    return out if out is not None else Code("1")


def _heads(
    body: Body,
    code: Code,
    have: Axes,
    is_whole: bool,
    groups: Axes,
    heads: Axes,
    last: Axes,
    *,
    full: bool = False,
) -> Code:
    """A value as [B, T, groups, heads, last], with 1 for groups or heads that it lacks unless it must be full; what is
    not whole, without batch or time, is repeated.
    """
    names = {a.name for a in have}
    order = [a.name for a in (*groups, *heads, *last) if a.name in names]
    if [a.name for a in have] != order:
        code = transposed(code, Value(-1, "param", (), Type(Kind.WEIGHT, have)), order, body.dialect)
    parts = [*(":" if a.name in names else "None" for a in (*groups, *heads)), *(":" for _ in last)]
    if not groups:
        parts.insert(0, "None")
    if not heads:
        parts.insert(len(groups) or 1, "None")
    if any(p == "None" for p in parts):
        code = Code(f"{code.atom}[{', '.join(['...', *_short(parts)])}]")
    lacking = [[a for a in part if a.name not in names] for part in (groups, heads)]
    some = any(0 < len(less) < len(part) for less, part in zip(lacking, (groups, heads), strict=True))
    if some or not is_whole or (full and any(lacking)):
        one = [Code("1")]
        outer = [[body.size(a.name, a.size) for a in part] or one for part in (groups, heads)]
        code = body.dialect.over_time(
            code, sequence(body), [*outer[0], *outer[1], *(body.size(a.name, a.size) for a in last)]
        )
    if len(heads) > 1:
        code = body.dialect.flatten(code, len(heads), len(last))
    if len(groups) > 1:
        code = body.dialect.flatten(code, len(groups), 1 + len(last))
    if len(last) > 1:
        code = body.dialect.flatten(code, len(last))
    return code


def _short(parts: list[str]) -> list[str]:
    while parts and parts[0] == ":":
        parts = parts[1:]
    return parts


def _from_heads(
    body: Body,
    value: Value,
    code: Code,
    groups: Axes,
    heads: Axes,
    inner: Axes,
    place: int,
) -> Code:
    """The result of a chunked scan, with the axes of the read-out; `place`: the line that made it."""
    name = code.text
    split: list[tuple[int, Axes]] = []
    if len(inner) > 1:
        split.append((-1, inner))
    out = code
    for place, axes in split:
        out = body.dialect.unflatten(out, place, [body.size(a.name, a.size) for a in axes])
    if len(heads) != 1 or len(groups) != 1:
        names = (*groups, *heads, *inner)
        sizes = [body.size(a.name, a.size).text for a in names]
        out = body.dialect.reshape_tail(code, sizes)
    if out is not code:
        body.lines[place] = body.lines[place].split("  # ")[0]
        body.line(f"{name} = {out.text}", value)
    if [a.name for a in (*groups, *heads, *inner)] != list(value.names):
        have = Value(-1, "param", (), Type(Kind.TOKEN, (*groups, *heads, *inner)))
        body.line(f"{name} = {reindex(code, have, value.type, body.dialect).text}", value)
    return code
