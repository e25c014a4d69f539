"""Which kernel runs each scan and each attention, what it moves, and where what is fused ends."""

from __future__ import annotations

from collections.abc import Iterator

from archc.elaborate.call import Program
from archc.emit.fused import Fused, find
from archc.emit.units import group
from archc.fuse.scans import FusedScan, fused_scans
from archc.fuse.traffic import Traffic
from archc.passes.scans import ScanClass, classify
from archc.reports.build import attention_rows, places
from archc.reports.layers import layers

KERNELS = {
    "diagonal": "scan",
    "selective": "selective_scan",
    "long_convolution": "scan",
    "chunked": "chunked_scan",
    "chunked_key": "chunked_key_scan",
}
"""The function that runs a class of scans, where its equations are not fused."""


def explanation(program: Program) -> str:
    """A paragraph for each scan and each sum over keys.

    Bytes are of bfloat16 per token and element of the scan's tile (see `archc.fuse.traffic`): as the kernel moves them,
    at best, and with every operation by itself.
    """
    graph = program.graph
    kinds = layers(graph)
    found, fused, classes = find(program, group(program)), fused_scans(graph), classify(graph)
    lines = ["Scans"]
    for value, kind, count in places(graph, kinds):
        if value in classes:
            lines.append(f"  {kind}{_times(count)}: {value.attrs['state']}")
            lines += [f"      {line}" for line in _scan(classes[value], fused[value], found)]
    lines += ["  none"] if len(lines) == 1 else []
    lines += ["", "Sums over keys"]
    rows = [
        line
        for row in attention_rows(graph, kinds)
        for line in (f"  {row.block}{_times(row.layers)}: {row.name}", f"      {row.sentence}")
    ]
    return "\n".join([*lines, *(rows or ["  none"])])


def _times(count: int) -> str:
    return f", each of {count}" if count > 1 else ""


def _scan(found: ScanClass, fused: FusedScan, emitted: Fused) -> Iterator[str]:
    yield found.sentence
    if fused.result in emitted.gated:
        kernel = "gated_scan" if found.kind == "diagonal" else "gated_selective_scan"
        yield f"kernel {kernel}: the equations around it run inside"
        if fused.traffic is not None:
            yield _bytes(fused.traffic)
        yield f"not more, since {fused.reason}"
        return
    if any(read.value in emitted.reads for read in found.reads):
        yield f"kernel {KERNELS[found.kind]}: scan and read-out are one"
    else:
        yield "kernel scan: every state is stored, the equations around it are operations of their own"
    if fused.gates is None:
        yield f"its equations are not fused, since {fused.reason}"
    elif fused.traffic is not None:
        yield f"its equations are operations of their own; fused: {_bytes(fused.traffic)}"


def _bytes(moved: Traffic) -> str:
    return (
        f"{moved.forward:.3g} bytes an element forward (at best {moved.ideal_forward:.3g}), {moved.backward:.3g} "
        f"backward (at best {moved.ideal_backward:.3g}); {moved.separate:.3g} forward if nothing were fused"
    )
