"""Scans with the equations around them in one kernel: which a program has, and how a unit calls them."""

from __future__ import annotations

from dataclasses import dataclass
from re import sub

from archc.elaborate.call import Call, Program
from archc.emit.body import Body
from archc.emit.code import Code
from archc.emit.layout import reindex
from archc.fuse.scans import FusedScan, Handed, fused_scans
from archc.ir.graph import Axis, Kind, Type, Value


def gated_scans(program: Program) -> dict[Value, FusedScan]:
    """The scans that run with their equations, by the value that their kernel gives back.

    A kernel is a line of one fn: what other fns compute cannot be part of it.
    """
    homes = {value: each for each in program.root.walk() for value in _own(each)}
    out: dict[Value, FusedScan] = {}
    for found in fused_scans(program.graph).values():
        if found.gates is None or found.kind != "diagonal":
            continue
        calls = {homes.get(v) for v in (found.scan, found.result, *(v for v in found.computed if v in homes))}
        if len(calls) == 1 and None not in calls and found.computed:
            out[found.result] = found
    return out


def _own(each: Call) -> set[Value]:
    below = {v for call in each.calls.values() for v in call.results}
    return {v for v in each.nodes if v not in below}


@dataclass(frozen=True)
class Named:
    """A fused scan, and what gates.py calls it: `stem` its functions, `constant` all of them together."""

    stem: str
    fused: FusedScan

    @property
    def constant(self) -> str:
        """What model.py imports."""
        return self.stem.upper()


def gated(body: Body, value: Value, fused: FusedScan) -> Code:
    """The call of a kernel, on a line of its own."""
    state = body.local_state(fused.scan)
    unit = sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", body.unit.name).lower()
    named = Named(f"{unit}_{state.replace('.', '_')}", fused)
    body.gates[named.stem] = named
    inputs, weights = (_row([_handed(body, h, fused) for h in each]) for each in (fused.inputs, fused.weights))
    text = f"{body.kernel('gated_scan')}({named.constant}, {inputs}, {weights}, pos, {body.old(state)})"
    return body.hoist(value, text, state)


def _handed(body: Body, handed: Handed, fused: FusedScan) -> str:
    """An input with the axes of the scan, 1 where it lacks one."""
    sizes = fused.scan.type.sizes
    kind = handed.value.kind
    have = Value(-1, "param", (), Type(kind, tuple(Axis(n, sizes[n]) for n in handed.axes)))
    target = Type(Kind.WEIGHT if kind is Kind.WEIGHT else Kind.TOKEN, tuple(Axis(n, sizes[n]) for n in fused.tile))
    return reindex(body.render(handed.value), have, target, body.dialect).text


def _row(parts: list[str]) -> str:
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
