"""Scans with the equations around them in one kernel: how a unit calls them, and the names of their functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from re import sub

from archc.emit.body import Body
from archc.emit.code import Code, python_name
from archc.emit.equations import row
from archc.emit.kernels import kernel_of
from archc.emit.layout import legend, reindex
from archc.emit.numbers import number_from
from archc.emit.outer import keys_and_queries, outer_axes, states_of
from archc.emit.recurrent import state_operands
from archc.fuse.builder import Given, own_name
from archc.fuse.fused_scan import OUTER, PER_KEY, FusedScan, Handed
from archc.fuse.on_axes import Group
from archc.fuse.parts import is_complex
from archc.ir.graph import Axis, Kind, Type, Value
from archc.passes.scan_class import ScanClass, ScanKind


def constant(stem: str) -> str:
    """What model.py imports: all functions of one scan, whose names begin with the stem."""
    return stem.upper()


def stem_of(body: Body, name: str) -> str:
    """What the functions of the unit's equations around a value are called."""
    unit = sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", body.unit.name).lower()
    return f"{unit}_{name.lower()}"


_OUTER: Mapping[ScanKind, Callable[[Body, ScanClass], tuple[Code, ...]]] = {
    "diagonal": lambda body, found: (),
    "selective": state_operands,
    "chunked": keys_and_queries,
    "chunked_key": lambda body, found: (),
}
"""What a kernel is handed besides what its equations read."""


def gated(body: Body, value: Value) -> Code:
    """The call of a kernel, on a line of its own."""
    fused = body.fused.gated[value]
    state = body.local_state(fused.scan)
    stem = stem_of(body, state.replace(".", "_"))
    body.gates[stem] = fused
    inputs, weights = (row([_handed(body, h, fused) for h in each]) for each in (fused.inputs, fused.weights))
    operands = [inputs, weights]
    operands += [code.text for code in _OUTER[fused.kind](body, fused.found)]
    kept = states_of(body, fused.found)
    arguments = [constant(stem), *operands, "pos", body.old(kept)]
    if fused.numbers:
        arguments.append(f"numbers={row([number_text(body, each) for each in fused.numbers])}")
    text = f"{body.kernel(kernel_of(fused.found, gated=True))}({', '.join(arguments)})"
    code = body.hoist(value, text, kept, "" if fused.out is None else "out")
    if is_complex(value):
        if value not in body.fused.parted:
            body.line(f"{code.text} = {body.kernel('joined_parts')}({code.text})", value)
        return code
    return _in_own_axes(body, value, code, fused)


def _is_flat(fused: FusedScan) -> bool:
    """Whether a kernel takes all channels as one axis, since some input has them so: none of the others may lack an
    axis then, and no line splits channels that the next one would merge.
    """
    whole = all(handed.axes == fused.tile for handed in (*fused.inputs, *fused.weights))
    return (
        fused.kind == "diagonal"
        and not fused.is_complex
        and whole
        and any(len(h.groups) == 1 < len(fused.tile) for h in fused.inputs)
    )


def _in_own_axes(body: Body, value: Value, code: Code, fused: FusedScan) -> Code:
    """What a kernel gives back, on a line of its own where its axes are not those of the scan."""
    if _is_flat(fused):
        if len(value.names) > 1:
            sizes_of = [body.size(a.name, a.size) for a in value.type.axes]
            body.line(f"{code.text} = {body.dialect.unflatten(code, -1, sizes_of).text}", value)
        return code
    sizes = fused.scan.type.sizes
    tile, order = (tuple(Axis(n, sizes[n]) for n in names) for names in (fused.tile, _flat(fused.groups)))
    have = Value(-1, "param", (), Type(Kind.TOKEN, tile))
    whole = code
    if len(_tile(fused)) > len(tile):
        whole = body.dialect.reshape_tail(code, [body.size(a.name, a.size).text for a in tile])
    out = reindex(whole, have, Type(Kind.TOKEN, order), body.dialect)
    for place, group in reversed([*enumerate(fused.groups)]):
        if len(group) > 1:
            out = body.dialect.flatten(out, len(group), len(fused.groups) - 1 - place)
    if out.text != code.text:
        body.lines[-1] = f"{body.lines[-1].split('  # ')[0]}  # {legend(have.type)}"
        body.line(f"{code.text} = {out.text}", value)
    return code


def _handed(body: Body, handed: Handed, fused: FusedScan) -> str:
    """An input with the axes of the kernel's tile, 1 where it lacks one; as it is for a kernel of flat channels."""
    sizes = fused.scan.type.sizes
    kind = handed.value.kind
    code = named(body, handed)
    if _is_flat(fused):
        return code.text
    for place, group in reversed([*enumerate(handed.groups)]):
        if len(group) > 1:
            inner = [body.size(a.name, a.size) for a in group]
            code = body.dialect.unflatten(code, place - len(handed.groups), inner)
    have = Value(-1, "param", (), Type(kind, tuple(Axis(n, sizes[n]) for n in handed.axes)))
    keyed = fused.kind == "chunked_key" and fused.room(handed) == PER_KEY
    target = Type(Kind.WEIGHT if kind is Kind.WEIGHT else Kind.TOKEN, _tile(fused, of_keys=keyed))
    return reindex(code, have, target, body.dialect).text


def _tile(fused: FusedScan, *, of_keys: bool = False) -> tuple[Axis, ...]:
    """The axes of the kernel's tile; outer products come in groups and heads, also where there is one of either."""
    if fused.kind not in OUTER:
        return tuple(Axis(n, fused.scan.type.sizes[n]) for n in fused.tile)
    axes, one = outer_axes(fused.found), (Axis("", 1),)
    return (*(axes.groups or one), *(axes.heads or one), *(axes.key if of_keys else axes.value))


def _flat(groups: tuple[Group, ...]) -> tuple[str, ...]:
    return tuple(a.name for group in groups for a in group)


def named(body: Body, handed: Handed) -> Code:
    """An input by a name of its own where the spec has none for it; a part of a complex one."""
    code = body.render(handed.value)
    if handed.part:
        return body.dialect.function({"re": "real", "im": "imag"}[handed.part], _once(body, handed.value, code))
    name = python_name(handed.name)
    if handed.value.kind is Kind.WEIGHT or code.text.isidentifier() or name in body.taken:
        return code
    body.line(f"{name} = {code.text}", handed.value)
    body.bind(handed.value, name)
    return Code(name)


def _once(body: Body, value: Value, code: Code) -> Code:
    """A complex value by a name, for both of its parts."""
    return code if code.text.isidentifier() else body.named(value, code.text, own_name(value) or "parts")


def number_text(body: Body, given: Given) -> str:
    """A number that a kernel is handed, as the unit knows it."""
    node = number_from(body.call, given.value, given.index)
    assert node is not None
    return body.numbers.text(node, body.place).text
