"""Why a scan runs without the equations around it, or why not more of them run in its kernel: ends of sentences."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from math import prod
from typing import TYPE_CHECKING

from archc.fuse.regions import fuses
from archc.ir.graph import Value
from archc.passes.matrix_scans import grouped, runs_fused
from archc.passes.scans import ScanClass

if TYPE_CHECKING:
    from archc.fuse.scans import Handed

MOST_KEYS = 128  # kernels/chunk_sizes.py: more run in parts, whose results are added behind the kernel


def problem(found: ScanClass) -> str:
    """Why no equations are generated for a scan; empty if they are."""
    if found.scan.type.dtype == "complex":
        return "its numbers are complex"
    match found.kind:
        case "long_convolution":
            return "the decay is the same for every token"
        case "selective" if not runs_fused(found):
            no_product = "its decay is no product of a factor per channel and weights"
            return f"{no_product}, or its state is not read once, as it is"
        case "chunked_key":
            return "the matrix form takes log decay, keys, values and queries as they are"
        case "chunked":
            return _outer(found)
    return ""


def _outer(found: ScanClass) -> str:
    """The same for outer products with a decay per head."""
    if not runs_fused(found):
        return "no kernel of its class runs it"
    if found.before or found.bonus:
        return "its state is read before the update"
    if any(len(names) > 1 for names in (*grouped(found), found.value)):
        return "its heads or its values have several axes"
    if set(found.reads[0].value.names) != {*found.heads, *found.value}:
        return "its read-out gives its axes other names"
    keys = prod(found.scan.type.sizes[n] for n in found.key)
    return f"its {keys} keys run in parts, whose results are added behind the kernel" if keys > MOST_KEYS else ""


SOURCES = {
    "contract": "a projection",
    "conv": "a convolution",
    "lookup": "a look-up",
    "param": "the stream of the block",
    "pos": "the position",
    **dict.fromkeys(("split", "merge", "slice", "concat", "stack_axis", "pick"), "elements in other places"),
    **dict.fromkeys(("scan", "maxscan", "prev", "loop_out", "contract_keys"), "other tokens"),
}


def ending(inputs: Iterable[Handed], taken: AbstractSet[Value]) -> str:
    """Where the equations end: what makes each input; `taken` are values of other kernels."""
    ends: dict[str, list[str]] = {}
    for each in inputs:
        if each.value in taken:
            why = "another kernel"
        elif fuses(each.value):
            why = "values that are read elsewhere too or belong to another function"
        else:
            why = SOURCES.get(each.value.op, "values of other elements")
        ends.setdefault(why, []).append(f"'{each.name}'")
    return "the equations end at " + ", ".join(f"{why} ({', '.join(names)})" for why, names in ends.items())
