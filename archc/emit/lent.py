"""The value before of a running value is its state: `prev(h)` of a scan h reads what the scan remembers anyway."""

from __future__ import annotations

from archc.elaborate.call import Call
from archc.emit.fused import Fused
from archc.emit.units import own_values
from archc.ir.graph import Value
from archc.ops.aliases import bare


def lender(value: Value, call: Call, fused: Fused) -> Value | None:
    """The scan of the same call whose state serves a `prev` too; None where that has a state of its own.

    A scan that a kernel computes on its way keeps its state in another shape.
    """
    if value.op != "prev":
        return None
    source = bare(value.operands[0])
    if source.op not in ("scan", "maxscan") or source in fused.absorbed or source.type.axes != value.type.axes:
        return None
    return source if source in own_values(call) else None
