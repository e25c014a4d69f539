"""Rules of the ops that cross time: each becomes a statement that also hands on its part of the state."""

from __future__ import annotations

from archc.emit.body import Body, Rule
from archc.emit.code import Code, call, infix, minus
from archc.emit.delta import delta
from archc.emit.factors import product
from archc.emit.kernels import SCANS
from archc.emit.layout import reindex
from archc.emit.lent import lender
from archc.emit.outer import chunked
from archc.emit.placed import sequence, whole
from archc.ir.graph import Axis, Kind, Type, Value
from archc.passes.delta import DeltaScan
from archc.passes.matrix_scans import split_decay
from archc.passes.placed import is_placed
from archc.passes.scan_class import Factor, ScanClass


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
    if isinstance(found, DeltaScan):
        return delta(body, value, found)
    if found.kind == "long_convolution":
        return _convolution(body, value, found)
    return _selective(body, value, found) if found.kind == "selective" else chunked(body, value, found)


def _signed(body: Body, factors: list[tuple[Value, int]], target: Type) -> Code:
    out: Code | None = None
    for value, _ in factors:
        code = reindex(body.render(value), value, target, body.dialect)
        out = code if out is None else infix("*", out, code)
    assert out is not None
    return out


def state_operands(body: Body, found: ScanClass) -> tuple[Code, Code, Code]:
    """Rates [channels, state], keys and queries [groups, state] of a selective scan; 1 for groups that share them."""
    split = split_decay(found)
    assert split is not None
    sizes = found.scan.type.sizes
    states = tuple(Axis(n, sizes[n]) for n in found.key)
    channels = tuple(Axis(n, sizes[n]) for n in found.heads)
    rates = _signed(body, split[1], Type(Kind.WEIGHT, (*channels, *states)))
    if sum(sign < 0 for _, sign in (*split[0], *split[1])) % 2:
        rates = minus(rates)
    rows = (*(Axis(n, sizes[n]) for n in found.groups), *states)
    return rates, _rows(body, found.factors["key"], rows), _rows(body, (Factor(found.reads[0].query),), rows)


def _rows(body: Body, factors: tuple[Factor, ...], axes: tuple[Axis, ...]) -> Code:
    """A product as [B, T, *axes], 1 where it lacks one; weights alone are repeated."""
    code = product(body, factors, axes)
    if any(isinstance(f.operand, Value) and f.operand.kind is Kind.TOKEN for f in factors):
        return code
    return body.dialect.over_time(code, sequence(body), [body.size(a.name, a.size) for a in axes])


def _convolution(body: Body, value: Value, found: ScanClass) -> Code:
    """Decay and read-out [channels, state] and the input [B, T, channels] of a scan whose decay is a weight."""
    sizes = found.scan.type.sizes
    channels, states = (tuple(Axis(n, sizes[n]) for n in names) for names in (found.heads, found.key))
    decay = _full(body, found.scan, 0)
    query = product(body, (Factor(found.reads[0].query), *found.factors["key"]), (*channels, *states))
    u = product(body, (*found.factors["head"], *found.factors["value"]), channels)
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
    x = product(body, inner, channels)
    rates, keys, query = state_operands(body, found)
    parts = [dt, rates, x, keys, query]
    state = body.local_state(found.scan)
    text = f"{body.kernel(SCANS['selective'])}({', '.join(p.text for p in parts)}, pos, {body.old(state)})"
    code = body.hoist(value, text, state)
    if value.names != found.heads:
        have = Value(-1, "param", (), Type(Kind.TOKEN, channels))
        body.lines[-1] = body.lines[-1].split("  # ")[0]
        body.line(f"{code.text} = {reindex(code, have, value.type, body.dialect).text}", value)
    return code


# --- loops -------------------------------------------------------------------------------------------


def _loop(body: Body, value: Value) -> Code:
    """The body becomes a function of the weights, the tokens that it reads and the states."""
    from archc.emit.loops import render_loop

    return render_loop(body, value)


def _loop_out(body: Body, value: Value) -> Code:
    raise AssertionError(f"{value} is named by its loop")


RECURRENT_RULES: dict[str, Rule] = {
    "prev": _prev,
    "scan": _scan,
    "maxscan": _scan,
    "loop": _loop,
    "loop_out": _loop_out,
}
