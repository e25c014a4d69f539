"""Why a kernel runs without the equations around it, or why not with more of them: ends of sentences."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from math import prod

from archc.fuse.fused_scan import Handed
from archc.fuse.on_axes import only_moves
from archc.fuse.regions import fuses
from archc.ir.graph import Kind, Region, Value
from archc.ops.table import OPS
from archc.passes.matrix_scans import KERNELS, grouped, obstacle, shares_values
from archc.passes.readout import leaves
from archc.passes.scan_class import ScanClass

MOST_KEYS = 128  # kernels/chunk_sizes.py: more run in parts, whose results are added behind the kernel


def problem(found: ScanClass) -> str:
    """Why no equations are generated for a scan; empty if they are."""
    if found.scan.type.dtype == "complex" and found.kind != "diagonal":
        return "its numbers are complex, and the kernels of what is read out at once take real ones"
    if found.normalises is not None:
        return "the scan that it normalises has no kernel either"
    if found.kind in KERNELS and (reason := obstacle(found)):
        return reason
    match found.kind:
        case "long_convolution":
            return "the decay is the same for every token"
        case "chunked" | "chunked_key":
            return _outer(found)
    return ""


def _outer(found: ScanClass) -> str:
    """The same for outer products."""
    if found.kind == "chunked" and (found.before or found.bonus):
        return "its state is read before the update"
    if not shares_values(found):
        return "what is added to the state before it is read has other values"
    if not set(found.key) <= set(found.reads[0].query.names):
        return "its queries are the same for all keys"
    if any(len(names) > 1 for names in (*grouped(found), found.value)):
        return "its heads or its values have several axes"
    if set(found.reads[0].value.names) != {*found.heads, *found.value}:
        return "its read-out gives its axes other names"
    return in_parts(found) if found.kind == "chunked" else ""


def in_parts(found: ScanClass) -> str:
    """Why nothing can be computed of what a scan of outer products reads: its keys are in several programs."""
    keys = prod(found.scan.type.sizes[n] for n in found.key)
    return f"its {keys} keys run in parts, whose results are added behind the kernel" if keys > MOST_KEYS else ""


def parts_of(found: ScanClass) -> int:
    """In how many parts the keys of a scan with a decay per key run."""
    return -(-prod(found.scan.type.sizes[n] for n in found.key) // MOST_KEYS) if found.kind == "chunked_key" else 1


SOURCES = {
    "contract": "a projection",
    "conv": "a convolution",
    "lookup": "a look-up",
    "param": "the stream of the block",
    "pos": "the position",
    **dict.fromkeys(("split", "merge", "slice", "concat", "stack_axis", "pick"), "elements in other places"),
    **dict.fromkeys(("scan", "maxscan", "prev", "loop_out", "contract_keys"), "other tokens"),
}


def ending(inputs: Iterable[Handed], taken: AbstractSet[Value], result: Value, region: Region) -> str:
    """Where the equations end: what makes each input, and what reads the result if that needs several elements of it.

    taken: values of other kernels.
    """
    ends: dict[str, list[str]] = {}
    for each in inputs:
        if each.value in taken:
            why = "another kernel"
        elif fuses(each.value):
            why = "values that are read elsewhere too or belong to another function"
        else:
            why = SOURCES.get(each.value.op, _other(each.value))
        ends.setdefault(why, []).append(f"'{each.name}'")
    ended = ", ".join(f"{why} ({', '.join(names)})" for why, names in ends.items())
    statistic = _statistic(result, region)
    return f"the equations end at {ended}" + (f"; behind it comes {statistic}, of other elements" if statistic else "")


def _other(value: Value) -> str:
    if OPS[value.op].flow == "pointwise" and value.kind is Kind.TOKEN:
        return "functions of complex numbers whose parts are not known"
    return "values of other elements"


def conv_ending(result: Value, region: Region, taken: AbstractSet[Value]) -> str:
    """Where what runs in the kernel of a convolution ends: at what reads its result.

    taken: values that kernels compute.
    """
    users = region.users.get(result, ())
    if len(users) != 1 or leaves(result, region):
        return "its result is read in several places or leaves its function"
    (user,) = users
    if user in taken:
        return "what follows runs in another kernel"
    if user.origin.calls != result.origin.calls:
        return "what follows belongs to another function"
    if fuses(user):
        return "what follows reads values of no channel, starts of documents, or is in another precision"
    readers = SOURCES | {"scan": "a scan", "maxscan": "a scan", "conv": "another convolution", "prev": "other tokens"}
    return f"behind it comes {readers.get(user.op, 'a value of other elements')}"


def _statistic(result: Value, region: Region) -> str:
    """The first value of several elements of a token that an element-wise function of the result goes into."""
    seen, todo = {result}, [result]
    while todo:
        for user in region.users.get(todo.pop(0), ()):
            if OPS[user.op].flow == "mix" and "over" in user.attrs and user.op != "contract":
                return f"a {user.attrs.get('fn', user.op)} over [{' '.join(user.attrs['over'])}]"
            if user not in seen and (fuses(user) or only_moves(user)):
                seen.add(user)
                todo.append(user)
    return ""
