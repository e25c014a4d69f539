"""Which call of a block a value was made in, read off its origin: what drawings and breakdowns group by."""

from __future__ import annotations

from archc.diagnostics import Span
from archc.ir.graph import Region, Value


def depth(region: Region) -> int:
    """How many calls lead to the region itself: those of its values begin after them."""
    return len(region.params[0].origin.calls) if region.params else 0


def call_of(value: Value, depth: int) -> Span | None:
    """The outermost call below a depth that made the value; None for an op written directly there."""
    calls = value.origin.calls
    return calls[depth] if len(calls) > depth else None


def callee(call: Span) -> str:
    """The name of what is called.

    >>> from archc.diagnostics import Source
    >>> callee(Span(Source("", "attend: attention(norm(x), 4)"), 0, 29))
    'attention'
    """
    return call.text.split("(")[0].split(":")[-1].strip()
