"""Which values are root-mean-square or layer norms over trailing axes, so that a framework's own norm can compute
them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from archc.ir.graph import Graph, Kind, Operand, Region, Value


@dataclass(frozen=True, eq=False)
class Norm:
    """`(x - centre) / sqrt(mean((x - centre)^2) + eps) * scale + shift` over the last axes of x.

    `centre` is the mean for a layer norm and 0 for an RMS norm; `scale` and `shift` are weights, or made of weights
    alone, with exactly those axes, or None. `total` is the sum of the mean square and eps, `inside` every value that
    the norm computes on the way.
    """

    kind: Literal["rms", "layer"]
    output: Value
    input: Value
    over: tuple[str, ...]
    total: Value
    scale: Value | None
    shift: Value | None
    inside: frozenset[Value]


def norms(graph: Graph) -> dict[Value, Norm]:
    """The largest norm that ends in each value: with its scale and shift where it has them."""
    found: dict[Value, Norm] = {}
    for region, _ in graph.regions():
        for value in region.values:
            if value in region.live:
                norm = _whole(value, found, region)
                if norm is not None:
                    found[value] = norm
    covered = {v for n in found.values() for v in n.inside}
    return {v: n for v, n in found.items() if v not in covered}


def _whole(value: Value, found: dict[Value, Norm], region: Region) -> Norm | None:
    match value.op:
        case "div":
            return _core(value, region)
        case "mul" | "add" | "narrow":
            return _extended(value, found, region)
    return None


def _extended(value: Value, found: dict[Value, Norm], region: Region) -> Norm | None:
    """A norm with one more step: its scale, its shift, or the return to the compute type."""
    inner = next((found[v] for v in value.operands if v in found and len(region.users.get(v, ())) == 1), None)
    if inner is None:
        return None
    grown = replace(inner, output=value, inside=inner.inside | {inner.output})
    if value.op == "narrow":
        return grown
    weight = next((v for v in value.operands if v is not inner.output), None)
    plain = (
        weight is not None and weight.kind is Kind.WEIGHT and weight.names == inner.over and len(value.operands) == 2
    )
    if not plain or inner.output.op == "narrow":
        return None
    if value.op == "mul" and inner.scale is None and inner.shift is None:
        return replace(grown, scale=weight)
    if value.op == "add" and inner.kind == "layer" and inner.scale is not None and inner.shift is None:
        return replace(grown, shift=weight)
    return None


def _core(value: Value, region: Region) -> Norm | None:
    """`d / sqrt(mean(d^2) + eps)`."""
    top, root = value.args
    if not isinstance(top, Value) or not isinstance(root, Value) or root.op != "sqrt":
        return None
    total = root.operands[0]
    if total.op != "add" or len(total.operands) != 1:
        return None
    mean = total.operands[0]
    if mean.op != "reduce" or mean.attrs["fn"] != "mean":
        return None
    square = mean.operands[0]
    over: tuple[str, ...] = tuple(mean.attrs["over"])
    if square.op != "pow" or square.args[1] != 2 or _same(square.args[0]) is not _same(top):
        return None
    if top.names[len(top.names) - len(over) :] != over:
        return None
    inside = frozenset({root, total, mean, square, *_casts(square.args[0])})
    centred = _centred(top, over, inside, region)
    if centred is not None:
        return Norm("layer", value, centred, over, total, None, None, inside | {top, *_mean_of(top)})
    return Norm("rms", value, top, over, total, None, None, inside)


def _centred(value: Value, over: tuple[str, ...], inside: frozenset[Value], region: Region) -> Value | None:
    """The x of `x - mean(x)`, if nothing else reads the difference."""
    if value.op != "sub" or len(value.operands) != 2:
        return None
    x, mean = value.operands
    plain = mean.op == "reduce" and mean.attrs["fn"] == "mean" and tuple(mean.attrs["over"]) == over
    readers = [u for u in region.users.get(value, ()) if u not in inside and u.op != "div"]
    return x if plain and not readers and _same(mean.operands[0]) is _same(x) else None


def _mean_of(value: Value) -> tuple[Value, ...]:
    mean = value.operands[1]
    return (mean, *_casts(mean.operands[0]))


def _same(value: Operand) -> Operand:
    """A value without the change to single precision."""
    while isinstance(value, Value) and value.op == "fp32":
        value = value.args[0]
    return value


def _casts(value: Operand) -> tuple[Value, ...]:
    return (value,) if isinstance(value, Value) and value.op == "fp32" else ()
