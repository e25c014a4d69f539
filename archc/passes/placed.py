"""Which tokens are made of positions alone: those are the same in every sequence of whole documents."""

from __future__ import annotations

from archc.ir.graph import Kind, Value

WHOLE = frozenset({"input", "param", "conv", "prev", "scan", "maxscan", "loop_out", "stack_out"})
"""What has its batch, whatever it is made of."""


def is_placed(value: Value) -> bool:
    """Whether a token or pair is made of positions and weights alone: an array without a batch, or with one of 1."""
    seen: set[Value] = set()
    todo = [value]
    while todo:
        each = todo.pop()
        if each.kind is Kind.WEIGHT or each.op in ("pos", "mask") or each in seen:
            continue
        seen.add(each)
        if each.op in WHOLE or each.kind is Kind.SEQ:
            return False
        todo += each.operands
    return value.kind is not Kind.WEIGHT
