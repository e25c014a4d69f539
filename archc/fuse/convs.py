"""Every convolution with the bias and the activation that run in its kernel."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from archc.ir.graph import Graph, Kind, Region, Value
from archc.passes.readout import leaves


@dataclass(frozen=True, eq=False)
class FusedConv:
    """`result = silu(conv + bias)`, or less of it: `bias` is None without one, `silu` says whether it is taken.

    `bias` is a weight with axes of the convolution. `computed` are the values on the way to the result, which no line
    of code computes.
    """

    conv: Value
    bias: Value | None
    silu: bool
    result: Value
    computed: frozenset[Value]


def fused_convs(graph: Graph, elsewhere: AbstractSet[Value] = frozenset()) -> dict[Value, FusedConv]:
    """Every live convolution by its result; the values `elsewhere` are computed by other kernels."""
    found = (_fused(v, region, elsewhere) for region, v in _live(graph) if v.op == "conv")
    return {each.result: each for each in found}


def _live(graph: Graph) -> Iterator[tuple[Region, Value]]:
    for region, _ in graph.regions():
        yield from ((region, v) for v in region.values if v in region.live)


def _fused(conv: Value, region: Region, elsewhere: AbstractSet[Value]) -> FusedConv:
    bias, last, computed = None, conv, set[Value]()
    user = _only_user(conv, region, elsewhere)
    if user is not None and (given := _bias(user, conv)) is not None:
        bias, last, computed = given, user, {conv}
        user = _only_user(user, region, elsewhere)
    silu = user is not None and user.op == "silu" and user.type == conv.type
    if silu and user is not None:
        computed |= {last}
        last = user
    return FusedConv(conv, bias, silu, last, frozenset(computed))


def _only_user(value: Value, region: Region, elsewhere: AbstractSet[Value]) -> Value | None:
    """The one value of the same call that reads a value, if no other does."""
    users = region.users.get(value, ())
    if len(users) != 1 or leaves(value, region):
        return None
    near = users[0].origin.calls == value.origin.calls and users[0] not in elsewhere
    return users[0] if near else None


def _bias(total: Value, conv: Value) -> Value | None:
    """What is added to a convolution, if it is a weight and the sum has the type of the convolution."""
    if total.op != "add" or total.type != conv.type:
        return None
    other = next((v for v in total.operands if v is not conv), None)
    return other if other is not None and other.kind is Kind.WEIGHT else None
