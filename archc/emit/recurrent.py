"""Rules of the ops that cross time: each becomes a statement that also hands on its part of the state."""

from __future__ import annotations

from archc.emit.body import Body, Rule
from archc.emit.code import Code, call, infix, minus
from archc.emit.kernels import SCANS
from archc.emit.layout import reindex, transposed
from archc.emit.lent import lender
from archc.emit.placed import sequence, whole
from archc.ir.graph import Axis, Kind, Operand, Type, Value
from archc.passes.matrix_scans import bonus_sides, split_decay
from archc.passes.placed import is_placed
from archc.passes.scans import Factor, ScanClass


def _conv(body: Body, value: Value) -> Code:
    """A convolution, or what its kernel makes of it: see `archc.fuse.convs`."""
    found = body.fused.convs[value]
    x, weight = found.conv.operands
    state = body.local_state(found.conv)
    order = [found.conv.attrs["taps"], *x.names]
    taps = body.render(weight)
    if list(weight.names) != order:
        taps = transposed(taps, weight, order, body.dialect)
    operands = [whole(body, x).text, taps.text, "pos", body.old(state)]
    if found.bias is not None:
        axes = Type(Kind.WEIGHT, x.type.axes)
        operands.append(f"bias={reindex(body.render(found.bias), found.bias, axes, body.dialect).text}")
    operands += ["silu=True"] if found.silu else []
    return body.hoist(value, f"{body.kernel('causal_conv')}({', '.join(operands)})", state)


def _prev(body: Body, value: Value) -> Code:
    state = body.local_state(value)
    source = lender(value, body.call, body.fused)
    old = body.old(state if source is None else body.local_state(source))
    text = f"{body.kernel('prev')}({whole(body, value.operands[0]).text}, pos, {old})"
    return body.hoist(value, text, state if source is None else None, state)


def _scan(body: Body, value: Value) -> Code:
    """A diagonal scan: the state itself is the result."""
    state = body.local_state(value)
    decay, entering = (_full(body, value, i) for i in range(2))
    text = f"{body.kernel(value.op)}({decay.text}, {entering.text}, pos, {body.old(state)})"
    return body.hoist(value, text, state)


def _full(body: Body, value: Value, index: int) -> Code:
    """A decay or an input with the axes of the state; the input must really have them all."""
    arg = value.args[index]
    if not isinstance(arg, Value):
        return body.operand(value, index)
    code = body.aligned(value, index)
    if index == 0 and not arg.type.wide and arg.type.dtype == "real":
        body.kernel("fp32")
        code = call("fp32", code)
    other = value.args[0]
    if index == 1 and is_placed(arg):
        return body.dialect.over_time(code, sequence(body), [body.size(a.name, a.size) for a in value.type.axes])
    varies = isinstance(other, Value) and other.kind is Kind.TOKEN
    if index == 1 and arg.kind is not Kind.TOKEN and not varies:
        return body.dialect.over_time(code, sequence(body), [body.size(a.name, a.size) for a in value.type.axes])
    if index == 1 and (set(arg.names) != set(value.names) or arg.kind is not Kind.TOKEN):
        shape = body.aligned(value, 0) if isinstance(other, Value) else code
        code = body.dialect.broadcast(code, infix("*", code, shape) if isinstance(other, Value) else code)
    return code


# --- scans with a fused read-out ---------------------------------------------------------------------


def read_out(body: Body, value: Value, found: ScanClass) -> Code:
    """The contraction of a scan's state: scan and read-out are one kernel."""
    if found.kind == "long_convolution":
        return _convolution(body, value, found)
    return _selective(body, value, found) if found.kind == "selective" else _chunked(body, value, found)


def _product(body: Body, factors: tuple[Factor, ...], axes: tuple[Axis, ...]) -> Code:
    """The product of factors, with exactly these axes."""
    target = Type(Kind.TOKEN, axes)
    out: Code | None = None
    for factor in factors:
        code = _factor(body, factor.operand, target)
        if out is None:
            out = code if factor.power == 1 else infix("/", Code("1"), code)
        else:
            out = infix("*" if factor.power == 1 else "/", out, code)
    return out if out is not None else Code("1.0")


def _factor(body: Body, operand: Operand, target: Type) -> Code:
    if not isinstance(operand, Value):
        return Code(repr(operand))
    return reindex(body.render(operand), operand, target, body.dialect)


def _signed(body: Body, factors: list[tuple[Value, int]], target: Type) -> Code:
    out: Code | None = None
    for value, _ in factors:
        code = reindex(body.render(value), value, target, body.dialect)
        out = code if out is None else infix("*", out, code)
    assert out is not None
    return out


def state_operands(body: Body, found: ScanClass) -> tuple[Code, Code, Code]:
    """Rates [channels, state], keys and queries [state] of a selective scan."""
    split = split_decay(found)
    assert split is not None
    sizes = found.scan.type.sizes
    states = tuple(Axis(n, sizes[n]) for n in found.key)
    channels = tuple(Axis(n, sizes[n]) for n in found.heads)
    rates = _signed(body, split[1], Type(Kind.WEIGHT, (*channels, *states)))
    if sum(sign < 0 for _, sign in (*split[0], *split[1])) % 2:
        rates = minus(rates)
    keys = _product(body, found.factors["key"], states)
    query = found.reads[0].query
    return rates, keys, reindex(body.render(query), query, Type(Kind.TOKEN, states), body.dialect)


def _convolution(body: Body, value: Value, found: ScanClass) -> Code:
    """Decay and read-out [channels, state] and the input [B, T, channels] of a scan whose decay is a weight."""
    sizes = found.scan.type.sizes
    channels, states = (tuple(Axis(n, sizes[n]) for n in names) for names in (found.heads, found.key))
    decay = _full(body, found.scan, 0)
    query = _product(body, (Factor(found.reads[0].query), *found.factors["key"]), (*channels, *states))
    u = _product(body, (*found.factors["head"], *found.factors["value"]), channels)
    state = body.local_state(found.scan)
    name = body.kernel(SCANS[found.kind])
    code = body.hoist(value, f"{name}({decay.text}, {u.text}, {query.text}, pos, {body.old(state)})", state, "y")
    if value.names != found.heads:
        have = Value(-1, "param", (), Type(Kind.TOKEN, channels))
        body.lines[-1] = body.lines[-1].split("  # ")[0]
        body.line(f"{code.text} = {reindex(code, have, value.type, body.dialect).text}", value)
    return code


def _selective(body: Body, value: Value, found: ScanClass) -> Code:
    split = split_decay(found)
    assert split is not None
    sizes = found.scan.type.sizes
    channels = tuple(Axis(n, sizes[n]) for n in found.heads)
    dt = _signed(body, split[0], Type(Kind.TOKEN, channels))
    inner = tuple(f for g in ("head", "value") for f in found.factors[g])
    x = _product(body, inner, channels)
    rates, keys, query = state_operands(body, found)
    parts = [dt, rates, x, keys, query]
    if len(channels) > 1:
        parts = [
            body.dialect.flatten(p, len(channels), after) for p, after in zip(parts[:3], (0, 1, 0), strict=True)
        ] + parts[3:]
    state = body.local_state(found.scan)
    text = f"{body.kernel(SCANS['selective'])}({', '.join(p.text for p in parts)}, pos, {body.old(state)})"
    code = body.hoist(value, text, state)
    if len(channels) > 1:
        out = body.dialect.unflatten(code, -1, [body.size(a.name, a.size) for a in channels])
        have = Value(-1, "param", (), Type(Kind.TOKEN, channels))
        body.lines[-1] = body.lines[-1].split("  # ")[0]
        body.line(f"{code.text} = {reindex(out, have, value.type, body.dialect).text}", value)
    return code


def _chunked(body: Body, value: Value, found: ScanClass) -> Code:
    """In groups of heads that share keys and queries: [B, T, groups, heads, key or value]."""
    sizes = found.scan.type.sizes
    query = found.reads[0].query
    shared = [set(query.names)] + [set(f.operand.names) for f in found.factors["key"] if isinstance(f.operand, Value)]
    groups = tuple(Axis(n, sizes[n]) for n in found.heads if all(n in s for s in shared))
    heads = tuple(Axis(n, sizes[n]) for n in found.heads if Axis(n, sizes[n]) not in groups)
    key = tuple(Axis(n, sizes[n]) for n in found.key)
    inner = tuple(Axis(n, sizes[n]) for n in found.value)
    per_key = found.kind == "chunked_key"
    log = _log_decay(body, found)
    operand = found.log_decay.operand
    decay = log
    if isinstance(operand, Value):
        last = key if per_key else ()
        decay = _heads(body, log, _log_names(found), True, groups, heads, last, full=True)
    if not isinstance(operand, Value) or operand.kind is Kind.WEIGHT:
        axes = [_flat(body, groups), _flat(body, heads), *([_flat(body, key)] if per_key else [])]
        decay = body.dialect.over_time(decay, sequence(body), axes)
    keys = _heads(body, *_side(body, found.factors["key"], (*groups, *heads, *key)), groups, heads, key)
    values = (*found.factors["head"], *found.factors["value"])
    v = _heads(body, *_side(body, values, (*groups, *heads, *inner)), groups, heads, inner, full=True)
    q_axes = tuple(Axis(n, sizes[n]) for n in query.names)
    q = _heads(body, body.render(query), q_axes, _is_whole(query), groups, heads, key)
    state = body.local_state(found.scan)
    name = body.kernel(SCANS[found.kind])
    before = ", before=True" if found.before else ""
    text = f"{name}({decay.text}, {keys.text}, {v.text}, {q.text}, pos, {body.old(state)}{before})"
    code = body.hoist(value, text, state)
    if found.bonus:
        body.line(f"{code.text} = {infix('+', code, _bonus(body, found, q, groups, heads)).text}", value)
    return _from_heads(body, value, code, groups, heads, inner)


def _bonus(body: Body, found: ScanClass, q: Code, groups: tuple[Axis, ...], heads: tuple[Axis, ...]) -> Code:
    """What the addition to the state before it is read adds to the read-out: (q . keys) values."""
    sides = bonus_sides(found)
    assert sides is not None
    sizes = found.scan.type.sizes
    key, inner = (tuple(Axis(n, sizes[n]) for n in names) for names in (found.key, found.value))
    keys = _heads(body, *_side(body, sides[0], (*groups, *heads, *key)), groups, heads, key)
    values = _heads(body, *_side(body, sides[1], (*groups, *heads, *inner)), groups, heads, inner, full=True)
    weight = body.dialect.reduce("sum", infix("*", q, keys), [-1])
    return infix("*", Code(f"{weight.atom}[..., None]"), values)


def _side(body: Body, factors: tuple[Factor, ...], order: tuple[Axis, ...]) -> tuple[Code, tuple[Axis, ...], bool]:
    """A product of factors over the axes that they really have; and whether it has batch and time."""
    values = [f.operand for f in factors if isinstance(f.operand, Value)]
    names = {n for v in values for n in v.names}
    axes = tuple(a for a in order if a.name in names)
    return _product(body, factors, axes), axes, any(map(_is_whole, values))


def _is_whole(value: Value) -> bool:
    """Whether a value is an array with batch and time."""
    return value.kind is Kind.TOKEN and not is_placed(value)


def _log_names(found: ScanClass) -> tuple[Axis, ...]:
    operand = found.log_decay.operand
    return operand.type.axes if isinstance(operand, Value) else ()


def _log_decay(body: Body, found: ScanClass) -> Code:
    """The logarithm of the decay, in single precision."""
    log = found.log_decay
    if not isinstance(log.operand, Value):
        return Code("0.0") if log.operand == 1 else call("math.log", Code(repr(log.operand)))
    code = body.render(log.operand)
    if not log.operand.type.wide:
        body.kernel("fp32")
        code = call("fp32", code)
    if log.form != "exponent":
        code = body.dialect.function(log.form, code)
    if log.times != 1:
        code = infix("*", Code(repr(log.times)), code)
    decay = found.scan.args[0]
    if log.form == "exponent" or log.operand.kind is Kind.WEIGHT or not isinstance(decay, Value) or not decay.label:
        return code
    name = f"log_{decay.label}"
    body.line(f"{name} = {code.text}", log.operand)
    return Code(name)


def _flat(body: Body, axes: tuple[Axis, ...]) -> Code:
    out: Code | None = None
    for axis in axes:
        code = body.size(axis.name, axis.size)
        out = code if out is None else infix("*", out, code)
    return out if out is not None else Code("1")


def _heads(
    body: Body,
    code: Code,
    have: tuple[Axis, ...],
    is_whole: bool,
    groups: tuple[Axis, ...],
    heads: tuple[Axis, ...],
    last: tuple[Axis, ...],
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
    groups: tuple[Axis, ...],
    heads: tuple[Axis, ...],
    inner: tuple[Axis, ...],
) -> Code:
    """The result of a chunked scan, with the axes of the read-out."""
    name = code.text
    flat: list[tuple[int, tuple[Axis, ...]]] = []
    if len(inner) > 1:
        flat.append((-1, inner))
    out = code
    for place, axes in flat:
        out = body.dialect.unflatten(out, place, [body.size(a.name, a.size) for a in axes])
    if len(heads) != 1 or len(groups) != 1:
        names = (*groups, *heads, *inner)
        sizes = [body.size(a.name, a.size).text for a in names]
        out = body.dialect.reshape_tail(code, sizes)
    if out is not code:
        body.lines[-1] = body.lines[-1].split("  # ")[0]
        body.line(f"{name} = {out.text}", value)
    if [a.name for a in (*groups, *heads, *inner)] != list(value.names):
        have = Value(-1, "param", (), Type(Kind.TOKEN, (*groups, *heads, *inner)))
        body.line(f"{name} = {reindex(code, have, value.type, body.dialect).text}", value)
    return code


# --- loops -------------------------------------------------------------------------------------------


def _loop(body: Body, value: Value) -> Code:
    """The body becomes a function of the weights, the tokens that it reads and the states."""
    from archc.emit.loops import render_loop

    return render_loop(body, value)


def _loop_out(body: Body, value: Value) -> Code:
    raise AssertionError(f"{value} is named by its loop")


RECURRENT_RULES: dict[str, Rule] = {
    "conv": _conv,
    "prev": _prev,
    "scan": _scan,
    "maxscan": _scan,
    "loop": _loop,
    "loop_out": _loop_out,
}
