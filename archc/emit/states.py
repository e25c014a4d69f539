"""The empty state of a unit as text: one array for every op that crosses time, in the shape its kernel keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from archc.elaborate.call import Call
from archc.emit.body import Body
from archc.emit.bundles import bundle
from archc.emit.calls import module_name, shared_argument, state_name
from archc.emit.code import Code, infix
from archc.emit.lent import lender
from archc.emit.lifted import in_all_calls, lifted, pair_values, pairs_below, program_ends, program_state
from archc.emit.units import Unit, is_number_mask, own_values
from archc.ir.graph import Axis, Value
from archc.ops.memory import stored
from archc.passes.attention import Attention
from archc.passes.delta import DeltaScan
from archc.passes.scan_class import ScanClass
from archc.text import ast


def state_entries(body: Body) -> list[tuple[str, str]]:
    """Key and expression of every part of the state."""
    out: dict[str, str] = {}
    mine = set(own_values(body.call))
    region = body.fused.regions[body.call]
    for value in region.values:
        if value in mine and value in region.live:
            entry = _entry(body, value)
            if entry is not None:
                out.setdefault(*entry)
        if value.op == "loop" and value not in body.fused.absorbed and _is_mine(body, value):
            out[f"loop_{_names(value)[0]}"] = _tuple(
                [_zeros(body, _shape(body, p.type.axes), "wide") for p in value.attrs["body"].params]
            )
    out.update(_pair_rings(body))
    for node, below in body.call.calls.items():
        unit = body.units.of[below]
        if not unit.has_state:
            continue
        if unit.is_class:
            arguments = list(body.dialect.state_arguments)
            arguments += [shared_argument(body, below, key).text for key in body.units.remembering(below)]
            if unit.takes_rows and not body.unit.takes_rows:
                arguments[1] = _slots(body, _around(body, node)).text
            out[state_name(body, node)] = f"{module_name(body, node)}.init_state({', '.join(arguments)})"
        else:
            entries = ", ".join(f'"{key}": {text}' for key, text in _of_function(body, unit, below))
            out[state_name(body, node)] = f"{{{entries}}}"
    return list(out.items())


def _names(value: Value) -> list[str]:
    return [str(s).rsplit(".", 1)[-1] for s in value.attrs["states"]]


def _is_mine(body: Body, value: Value) -> bool:
    return any(isinstance(s, ast.Loop) and s.span == value.origin.span for s in body.call.definition.body) and all(
        str(s).startswith(body.call.instance.path) for s in value.attrs["states"]
    )


def _of_function(outer: Body, unit: Unit, below: Call) -> list[tuple[str, str]]:
    """The state of a called function, which its caller keeps: by the names that its text has, that of the first call,
    and in the sizes of this one, in the caller's words.
    """
    axes = {**outer.axes, **{own: outer.axes.get(name, name) for own, name in below.renamed.items()}}
    named, sized = (
        state_entries(
            Body(
                replace(unit, first=call), outer.units, outer.dialect, outer.rules, outer.fused, outer.precision,
                outer.finished, outer.numbers, axes=axes,
            )
        )
        for call in (unit.first, below)
    )  # fmt: skip
    return [(key, text) for (key, _), (_, text) in zip(named, sized, strict=True)]


def _entry(body: Body, value: Value) -> tuple[str, str] | None:
    if value in body.fused.attention:
        return "kv", _rings(body, body.fused.attention[value])
    if value in body.fused.reads:
        found = body.fused.reads[value]
        return body.local_state(found.scan), _scan_state(body, found)
    swallowed = value in body.fused.absorbed and value not in body.fused.remembered
    swallowed |= value.op == "prev" and value in body.fused.gated  # its kernel knows the state before each token
    if swallowed or value.op not in ("conv", "prev", "scan", "maxscan"):
        return None
    if lender(value, body.call, body.fused) is not None:
        return None
    return body.local_state(value), _plain(body, value, _shape(body, value.type.axes))


def _plain(body: Body, value: Value, shape: list[Code]) -> str:
    if value.op == "conv":
        taps = value.operands[1].type.sizes[value.attrs["taps"]]
        count = infix("-", body.size(value.attrs["taps"], taps), Code("1"))
        return _zeros(body, [count, *shape], _kept(value.operands[0]))
    if value.op == "prev":
        return _zeros(body, shape, _kept(value.operands[0]))
    return _zeros(body, shape, "complex" if value.type.dtype == "complex" else "wide")


def _kept(token: Value) -> str:
    """What a remembered token is kept as, for `Dialect.zeros`: in the precision in which it is computed."""
    kept = stored(token)
    return {"fp32": "wide", "compute": "dtype"}.get(kept, kept)


def _scan_state(body: Body, found: ScanClass) -> str:
    if isinstance(found, DeltaScan):
        sizes = found.state.type.sizes
        return _zeros(body, [_flat(body, part, sizes) for part in (found.heads, found.key, found.value)], "wide")
    sizes = found.scan.type.sizes
    if found.kind == "long_convolution":
        return _plain(body, found.scan, _shape(body, found.scan.type.axes))
    if found.kind == "selective":
        return _zeros(body, [body.size(n, sizes[n]) for n in (*found.heads, *found.key)], "wide")
    query = found.reads[0].query
    shared = [set(query.names)] + [set(f.operand.names) for f in found.factors["key"] if isinstance(f.operand, Value)]
    groups = tuple(n for n in found.heads if all(n in s for s in shared))
    heads = tuple(n for n in found.heads if n not in groups)
    of_state = (groups, heads, found.key, *([found.value] if found.normalises is None else []))
    parts = [_flat(body, p, sizes) for p in of_state]
    return _zeros(body, parts, "wide")


def _flat(body: Body, names: tuple[str, ...], sizes: dict[str, int]) -> Code:
    out: Code | None = None
    for name in names:
        code = body.size(name, sizes[name])
        out = code if out is None else infix("*", out, code)
    return out if out is not None else Code("1")


def _rings(body: Body, found: Attention) -> str:
    from archc.emit.attend import window_text

    window = window_text(body, found)
    slots = Code("context") if window is None else Code(f"min({window}, context)")
    if window is not None and any(bound is found.weights.args[1] for bound in body.call.arguments.values()):
        slots = Code(f"min({window} or context, context)")
    sizes = {**found.key.type.sizes, **found.value.type.sizes}
    groups = _flat(body, found.groups, sizes)
    keys = _zeros(body, [slots, groups, _flat(body, found.over, sizes)], "dtype")
    values = _zeros(body, [slots, groups, _flat(body, found.values, sizes)], "dtype")
    return _tuple([keys, values])


def _pair_rings(body: Body) -> dict[str, str]:
    """One ring for every token that a pair program lifts to keys, by the key of the program."""
    if not body.unit.takes_rows:
        programs = {end: lifted("keys", pair_values(body, end)) for end in program_ends(body)}
        return {program_state(body, e): _token_rings(body, _slots(body, e), keys) for e, keys in programs.items()}
    keys = bundle(body.call, body.units).keys
    return {"keys": _token_rings(body, Code("context"), keys)} if keys else {}


def _token_rings(body: Body, slots: Code, tokens: Sequence[Value]) -> str:
    rings = [_zeros(body, [slots, *_shape(body, t.type.axes)], _kept(t)) for t in tokens]
    return _tuple(rings or [_zeros(body, [slots, Code("0")], "dtype")])


def _slots(body: Body, end: Value) -> Code:
    """How many tokens a pair program remembers."""
    masks = {v for v in pair_values(body, end) if v.op == "mask"}
    for key, bound in body.call.arguments.items():
        if bound in masks and is_number_mask(bound):
            window = f"min({body.numbers.symbol(key, 'forward').text} or context, context)"
            return Code(window if len(masks) == 1 else "context")
    calls = zip(body.unit.calls, in_all_calls(body, end), strict=False)
    keys = [v for call, each in calls for v in pairs_below(call, each.operands) if v.op == "keys"]
    spans = [body.fused.spans[v] for v in keys if v in body.fused.spans]
    back = max((s.back for s in spans), default=inf)
    return Code("context") if back == inf else Code(f"min({int(back)}, context)")


def _around(body: Body, node: ast.Call) -> Value:
    """The end of the program that a call is part of."""
    made = {v for v, (call, _) in body.results.items() if call is node}
    return next(end for end in program_ends(body) if made & set(pair_values(body, end)))


def _tuple(parts: list[str]) -> str:
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def _shape(body: Body, axes: tuple[Axis, ...]) -> list[Code]:
    return [_size(body, a) for a in axes]


def _size(body: Body, axis: Axis) -> Code:
    return body.size(axis.name, axis.size)


def _zeros(body: Body, shape: list[Code], how: str) -> str:
    return body.dialect.zeros([Code("batch"), *shape], how).text
