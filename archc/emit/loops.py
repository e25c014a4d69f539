"""`loop` as text."""

from __future__ import annotations

from archc.emit.body import Body
from archc.emit.code import Code
from archc.ir.graph import Value


def render_loop(body: Body, value: Value) -> Code:
    """Not yet."""
    raise AssertionError("loop")
