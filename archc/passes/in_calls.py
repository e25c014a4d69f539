"""Which values a call of a function can write down: a text names nothing that only exists inside of another call."""

from __future__ import annotations

from archc.diagnostics import Span
from archc.ir.graph import Value
from archc.ops.table import OPS


def can_be_read(value: Value, calls: tuple[Span, ...]) -> bool:
    """Whether the call can write down what `value` is made of: its own expression, or one of a function called from
    there that is element-wise down to what is given in.
    """
    own = value.origin.calls
    if own[: len(calls)] != calls:
        return False
    return len(own) == len(calls) or all(_is_there(v, calls) for v in value.operands)


def _is_there(value: Value, calls: tuple[Span, ...]) -> bool:
    inside = len(value.origin.calls) > len(calls)
    return not inside or (
        OPS[value.op].flow in ("pointwise", "alias") and all(_is_there(v, calls) for v in value.operands)
    )
