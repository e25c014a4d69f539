"""Scans with the equations around them in one kernel: how a unit calls them, and the names of their functions."""

from __future__ import annotations

from re import sub

from archc.emit.body import Body
from archc.emit.code import Code, python_name
from archc.emit.kernels import GATED
from archc.emit.layout import reindex
from archc.emit.recurrent import state_operands
from archc.fuse.scans import FusedScan, Handed
from archc.ir.graph import Axis, Kind, Type, Value


def constant(stem: str) -> str:
    """What model.py imports: all functions of one scan, whose names begin with the stem."""
    return stem.upper()


def stem_of(body: Body, name: str) -> str:
    """What the functions of the unit's equations around a value are called."""
    unit = sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", body.unit.name).lower()
    return f"{unit}_{name.lower()}"


def gated(body: Body, value: Value) -> Code:
    """The call of a kernel, on a line of its own."""
    fused = body.fused.gated[value]
    state = body.local_state(fused.scan)
    stem = stem_of(body, state.replace(".", "_"))
    body.gates[stem] = fused
    inputs, weights = (_row([_handed(body, h, fused) for h in each]) for each in (fused.inputs, fused.weights))
    operands = [inputs, weights]
    if fused.kind != "diagonal":
        operands += [code.text for code in state_operands(body, fused.found)]
    text = f"{body.kernel(GATED[fused.kind])}({', '.join([constant(stem), *operands, 'pos', body.old(state)])})"
    return body.hoist(value, text, state, "" if fused.out is None else "out")


def _handed(body: Body, handed: Handed, fused: FusedScan) -> str:
    """An input with the axes of the kernel's tile, 1 where it lacks one."""
    sizes = fused.scan.type.sizes
    kind = handed.value.kind
    have = Value(-1, "param", (), Type(kind, tuple(Axis(n, sizes[n]) for n in handed.axes)))
    target = Type(Kind.WEIGHT if kind is Kind.WEIGHT else Kind.TOKEN, tuple(Axis(n, sizes[n]) for n in fused.tile))
    return reindex(_named(body, handed), have, target, body.dialect).text


def _named(body: Body, handed: Handed) -> Code:
    """An input by a name of its own where the spec has none for it."""
    code = body.render(handed.value)
    name = python_name(handed.name)
    if handed.value.kind is Kind.WEIGHT or code.text.isidentifier() or name in body.taken:
        return code
    body.line(f"{name} = {code.text}", handed.value)
    body.bind(handed.value, name)
    return Code(name)


def _row(parts: list[str]) -> str:
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
