"""Which scans and loops run in the kernels of their class: calls of a fn share its text, so all of them have to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from archc.elaborate.call import Call, Program
from archc.emit.units import Unit, Units, own_values
from archc.ir.graph import Region, Value
from archc.passes.delta import DeltaScan, delta_scans
from archc.passes.matrix_scans import obstacle, runs_fused
from archc.passes.scan_class import ScanClass
from archc.passes.scans import classify, kept_sentence

Regions = Mapping[Call, Region]


def call_regions(program: Program) -> Regions:
    """Where each call was elaborated."""
    out: dict[Call, Region] = {}
    _regions(program.root, program.root.region, out)
    return out


def _regions(call: Call, region: Region | None, out: dict[Call, Region]) -> None:
    here = call.region or region
    assert here is not None
    out[call] = here
    for below in call.calls.values():
        _regions(below, here, out)
    for stack in call.stacks.values():
        for below in stack.distinct:
            _regions(below, below.region, out)


def alike(found: Mapping[Value, object], units: Units, regions: Regions) -> Iterator[tuple[Unit, tuple[Value, ...]]]:
    """What was found and shares its text: the values of all calls of a unit, one by one."""
    for unit in units.order:
        values = [[v for v in regions[c].values if v in found and v in own_values(c)] for c in unit.calls]
        for each in zip(*values, strict=False):
            yield unit, each


def kernel_scans(program: Program, units: Units, regions: Regions) -> dict[Value, ScanClass]:
    """The scans of matrix states that a kernel of their class runs with their read-out; others keep every state."""
    found = classify(program.graph)
    apart = {v for _, vs in alike(found, units, regions) for v in vs if len({_said(found[w]) for w in vs}) > 1}
    return {v: each for v, each in found.items() if runs_fused(each) and v not in apart}


def _said(found: ScanClass) -> tuple[object, ...]:
    """What decides about the text of a scan: calls of a fn whose numbers differ may differ in it."""
    log = found.log_decay
    return runs_fused(found), found.kind, found.normaliser is None, log.form, log.times


def kernel_loops(program: Program, units: Units, regions: Regions) -> dict[Value, DeltaScan]:
    """The loops that run in chunks as delta rules; others run token by token."""
    kept = delta_scans(program.graph)
    for unit in units.order if kept else ():
        for each in zip(*(_loops(c, regions[c]) for c in unit.calls), strict=False):
            if len({kept[v].signature if v in kept else None for v in each}) > 1:
                kept = {v: rule for v, rule in kept.items() if v not in each}
    return kept


def _loops(call: Call, region: Region) -> list[Value]:
    """The loops of this very call: statements, which made none of its own values."""
    own = {v.origin.calls for v in own_values(call)}
    return [v for v in region.values if v.op == "loop" and v.origin.calls in own]


def scan_sentence(found: ScanClass, runs: Mapping[Value, ScanClass]) -> str:
    """How a scan runs: as its class says, or, where its kernel does not run it, with every state kept."""
    whole = found.normalises or found.scan
    if found.kind == "diagonal" or whole in runs:
        return found.sentence
    reason = "it is no convolution of weights" if found.kind == "long_convolution" else obstacle(found)
    return kept_sentence(found.scan, reason or "calls of its fn have decays of other forms")


def loop_sentence(loop: Value, runs: Mapping[Value, DeltaScan]) -> str:
    """How a loop runs: as a delta rule in chunks, or token by token."""
    if loop in runs:
        return runs[loop].sentence
    states = ", ".join(f"[{' '.join(p.names)}]" for p in loop.attrs["body"].params)
    return f"loop over {states}: one token after the other"
