"""Which scans the kernels of the selective and chunked forms can run, and the decay of a selective one as a product."""

from __future__ import annotations

from archc.ir.graph import Value
from archc.passes.scans import ScanClass

KERNELS = frozenset({"selective", "chunked", "chunked_key"})


def runs_fused(found: ScanClass) -> bool:
    """Whether the kernels of the chunked and selective forms run this scan; the others run as written."""
    if found.kind not in KERNELS or len(found.reads) != 1 or found.before or found.column_of is not None:
        return False
    if found.bonus or found.scan.type.dtype == "complex" or not found.factors["key"]:
        return False
    if len(found.key) != 1:
        return False
    held = set(found.key) if found.kind == "selective" else {*found.key, *found.heads}
    if not set(found.reads[0].query.names) <= held:
        return False
    names = [set(f.operand.names) for f in found.factors["key"] if isinstance(f.operand, Value)]
    if found.kind == "selective":
        return split_decay(found) is not None and all(n <= set(found.key) for n in names)
    return all(n <= set(found.key) | set(found.heads) for n in names)


def split_decay(found: ScanClass) -> tuple[list[tuple[Value, int]], list[tuple[Value, int]]] | None:
    """The log decay of a selective scan as token factors over the channels times weight factors over channels and
    state.

    Each factor comes with its sign. None if it is no such product.
    """
    log = found.log_decay
    if log.form != "exponent" or log.times != 1 or not isinstance(log.operand, Value):
        return None
    factors = _product(log.operand, 1)
    key = set(found.key)
    tokens = [(v, s) for v, s in factors if v.kind.name == "TOKEN"]
    weights = [(v, s) for v, s in factors if v.kind.name == "WEIGHT"]
    if len(tokens) + len(weights) < len(factors) or not tokens or not weights:
        return None
    if any(key & set(v.names) for v, _ in tokens):
        return None
    return tokens, weights


def _product(value: Value, sign: int) -> list[tuple[Value, int]]:
    if value.op == "neg":
        return _product(value.operands[0], -sign)
    if value.op == "mul" and len(value.operands) == 2:
        left, right = value.operands
        return [*_product(left, sign), *_product(right, 1)]
    return [(value, sign)]
