"""Loops that are a delta rule: what their kernel is handed, in heads."""

from __future__ import annotations

from archc.emit.body import Body
from archc.emit.code import Code, python_name
from archc.emit.factors import product
from archc.emit.kernels import SCANS
from archc.emit.layout import reindex
from archc.emit.outer import flat, log_decay
from archc.emit.placed import sequence
from archc.ir.graph import Axis, Kind, Operand, Region, Type, Value
from archc.passes.delta import DeltaScan
from archc.passes.scan_class import Factor

Axes = tuple[Axis, ...]


def delta(body: Body, value: Value, found: DeltaScan) -> Code:
    """The read-out: a call with [B, T, heads], [B, T, heads, key or value], and its result with its own axes."""
    sizes = found.state.type.sizes
    heads, key, inner = (tuple(Axis(n, sizes[n]) for n in names) for names in (found.heads, found.key, found.value))
    for factor in (*found.factors["key"], *found.factors["value"], *found.correction):
        _named(body, factor.operand, found.scan.attrs["body"])
    parts = [
        _decay(body, found, heads),
        _rows(body, found.factors["key"], heads, key),
        _values(body, value, found.factors["value"], heads, inner),
        _rows(body, found.correction, heads, key),
        _rows(body, (Factor(found.reads[0].query),), heads, key),
    ]
    name = body.local_state(found.scan)
    late = "" if found.decayed else ", decayed=False"
    text = f"{body.kernel(SCANS[found.kind])}({', '.join(p.text for p in parts)}, pos, {body.old(name)}{late})"
    code = body.hoist(value, text, name, "y")
    have = Value(-1, "param", (), Type(Kind.TOKEN, (*heads, *inner)))
    shaped = code
    if len(heads) != 1 or len(inner) != 1:
        shaped = body.dialect.reshape_tail(code, [body.size(a.name, a.size).text for a in (*heads, *inner)])
    shaped = reindex(shaped, have, value.type, body.dialect)
    if shaped.text != code.text:
        body.lines[-1] = body.lines[-1].split("  # ")[0]
        body.line(f"{code.text} = {shaped.text}", value)
    return code


def _named(body: Body, operand: Operand, inner: Region) -> None:
    """A line for what the body of the loop names."""
    if isinstance(operand, Value) and operand.label and operand in inner.values and operand not in body.names:
        name = python_name(operand.label)
        if name in body.names.values():
            return  # the text has called something else so since the loop
        body.line(f"{name} = {body.render(operand).text}", operand)
        body.bind(operand, name)


def _decay(body: Body, found: DeltaScan, heads: Axes) -> Code:
    """The logarithm of the decay, [B, T, heads]; under the name of what it is the logarithm of."""
    operand = found.log_decay.operand
    code, decay = log_decay(body, found), found.decay
    if not isinstance(operand, Value):
        return body.dialect.over_time(code, sequence(body), [flat(body, heads)])
    if isinstance(decay, Value) and decay.label and operand.kind is Kind.TOKEN and not code.text.isidentifier():
        name = f"log_{decay.label}"
        body.line(f"{name} = {code.text}", operand)
        code = Code(name)
    return _laid(body, reindex(code, operand, Type(Kind.TOKEN, heads), body.dialect), (operand,), heads, ())


def _rows(body: Body, factors: tuple[Factor, ...], heads: Axes, last: Axes) -> Code:
    """A product of factors as [B, T, heads, last]."""
    values = [f.operand for f in factors if isinstance(f.operand, Value)]
    return _laid(body, product(body, factors, (*heads, *last)), tuple(values), heads, last)


def _values(body: Body, read: Value, factors: tuple[Factor, ...], heads: Axes, last: Axes) -> Code:
    """The values in the precision of the read-out, which is that of the kernel's result."""
    code = _rows(body, factors, heads, last)
    wide = any(
        body.precision.is_wide_weight(f.operand) or f.operand.type.wide for f in factors if isinstance(f.operand, Value)
    )
    if wide == read.type.wide:
        return code
    if wide:
        return body.narrow(code)
    body.kernel("fp32")
    return Code(f"fp32({code.text})")


def _laid(body: Body, code: Code, values: tuple[Value, ...], heads: Axes, last: Axes) -> Code:
    """What has the axes of heads, then those of keys or values, or 1 for those that it lacks, in full and flattened."""
    have = {n for v in values for n in v.names}
    if any(a.name not in have for a in (*heads, *last)) or all(v.kind is not Kind.TOKEN for v in values):
        code = body.dialect.over_time(code, sequence(body), [body.size(a.name, a.size) for a in (*heads, *last)])
    if len(last) > 1:
        code = body.dialect.flatten(code, len(last))
    if len(heads) > 1:
        code = body.dialect.flatten(code, len(heads), min(len(last), 1))
    return code if heads else Code(f"{code.atom}[{':, :, None' if last else '..., None'}]")
