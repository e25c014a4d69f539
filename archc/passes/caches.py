"""What a decoder remembers: derived from the ops that cross time and from where pairs may be non-zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf, prod
from typing import Any

from archc.ir.graph import Axis, Graph, Kind, Region, Value
from archc.ops.aliases import bare
from archc.ops.memory import Memory, Stored, What
from archc.ops.support import EVERYWHERE, NOWHERE, Support
from archc.ops.table import OPS
from archc.passes.support import REDUCTIONS as REDUCTIONS
from archc.passes.support import live_values, seen, supports
from archc.passes.workload import least

BYTES: dict[Stored, int] = {"fp32": 4, "complex": 8, "int": 4, "bool": 1}


@dataclass(frozen=True)
class Cache:
    """One array per sequence: `tokens` (None: every token) times the axes. `why` names the expression that needs it."""

    name: str
    what: What
    axes: tuple[Axis, ...]
    tokens: int | None
    stored: Stored
    why: str
    value: Value

    def kept(self, context: Any) -> Any:
        """How many tokens are held after `context` tokens: an int, or an array for an array."""
        if self.what != "keys":
            return self.tokens
        return context if self.tokens is None else least(context, self.tokens)

    def bytes(self, context: Any, compute: int = 2) -> Any:
        """Bytes per sequence; `compute` are the bytes of an element in the compute type."""
        width = compute if self.stored == "compute" else BYTES[self.stored]
        return self.kept(context) * prod(a.size for a in self.axes) * width


def caches(graph: Graph) -> tuple[Cache, ...]:
    """Every array of the state of a model, in the order of the text and of the layers.

    `pos` is never cached (the state counts tokens), `prev` of a running value needs nothing beyond that value, a
    token lifted twice is one cache, and keys that meet in one pair keep equally many tokens: the most that a sum over
    them can reach. An encoder is not decoded: it has none.
    """
    if graph.kind == "encoder":
        return ()
    span = reach(graph)
    out: list[Cache] = []
    for region, prefixes in graph.regions():
        held = tuple(_held(region, span))
        for prefix in prefixes:
            out += (replace(cache, name=f"{prefix}.{cache.name}") for cache in held) if prefix else held
    return tuple(out)


def _held(region: Region, span: dict[Value, Support]) -> Iterator[Cache]:
    """The arrays of one layer that runs a region, under their names below its prefix."""
    lifted: set[Value] = set()
    for value in region.values:
        if value not in region.live or value in region.params or is_free(value):
            continue
        if value.op == "keys":
            if value.args[0] in lifted:
                continue
            lifted.update(value.operands)
        for part in OPS[value.op].state(value):
            tokens = part.tokens if part.tokens is not None else _whole(span[value].back)
            yield Cache(part.name, part.what, part.axes, tokens, part.stored, _why(value, part, tokens), value)


def _whole(back: float) -> int | None:
    return None if back == inf else int(back)


def is_free(value: Value) -> bool:
    """Whether an op that crosses time needs no memory of its own: `keys(pos)`, and `prev` of a running value."""
    if value.op not in ("keys", "prev"):
        return False
    source = bare(value.operands[0])
    if value.op == "keys":
        return source.op == "pos"
    return source.op in ("scan", "maxscan") or (
        source.op == "loop_out" and source.attrs["index"] < len(source.operands[0].attrs["states"])
    )


def reach(graph: Graph) -> dict[Value, Support]:
    """For every pair the keys that the sums over keys in which it takes part can reach, all together."""
    found = supports(graph)
    parent: dict[Value, Value] = {}

    def find(value: Value) -> Value:
        while parent.setdefault(value, value) is not value:
            value = parent[value]
        return value

    pairs = [v for v in live_values(graph) if v.kind is Kind.PAIR or v.op in REDUCTIONS]
    for value in pairs:
        met = [v for v in (*value.operands, value) if v.kind is Kind.PAIR and not _is_mask(v)]
        for one, other in pairwise(met):
            parent[find(one)] = find(other)
    span: dict[Value, Support] = {}
    for value in pairs:
        if value.op in REDUCTIONS:
            for operand in value.operands:
                if operand.kind is Kind.PAIR and not _is_mask(operand):
                    root = find(operand)
                    span[root] = span.get(root, NOWHERE).join(seen(value, found))
        if value.op == "softmax_keys":  # its denominator is a sum over keys
            span[find(value)] = span.get(find(value), NOWHERE).join(found[value])
    return {v: span.get(find(v), EVERYWHERE) for v in pairs if v.kind is Kind.PAIR and not _is_mask(v)}


def _is_mask(value: Value) -> bool:
    """Masks are computed from distances; nothing is kept for them."""
    if value.op == "mask":
        return True
    return value.op in ("and", "or", "not") and all(_is_mask(v) for v in value.operands)


def bounds(graph: Graph) -> dict[str, float]:
    """Full name of the state of every `keys(...)` -> how many tokens it must hold; inf: all."""
    span = reach(graph)
    return {
        f"{prefix}.{value.attrs['state']}" if prefix else value.attrs["state"]: span[value].back
        for region, prefixes in graph.regions()
        for prefix in prefixes
        for value in region.values
        if value.op == "keys" and value in region.live
    }


def _why(value: Value, part: Memory, tokens: int | None) -> str:
    name = value.label or (value.operands[0].label if value.operands else "")
    text = value.origin.span.text if value.origin.span is not None else f"{value.op}({name})"
    text = " ".join(text.split())
    match part.what:
        case "keys":
            many = "every later query can see it" if tokens is None else f"later queries see the last {tokens} tokens"
            return f"{text}: {many}"
        case "conv":
            return f"{text}: the taps weigh the last {tokens} inputs besides the present one"
        case "prev":
            return f"{text}: the value of the token before"
        case "scan" | "maxscan":
            return f"{text}: the running value"
        case "loop":
            return f"the state '{part.name.rsplit('.', 1)[-1]}' of a loop"
