"""A value apart from what its axes are called and from its precision."""

from __future__ import annotations

from archc.ir.graph import Value
from archc.ops.table import OPS


def bare(value: Value) -> Value:
    """The value behind renamings of axes and changes of precision."""
    while OPS[value.op].flow == "alias":
        (value,) = value.operands
    return value
