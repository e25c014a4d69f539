"""What the gates of each class of scans give its kernel, as products of values of the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from archc.fuse.builder import Given, Numbers
from archc.fuse.on_axes import Placed, factor, placed
from archc.ir.graph import Value
from archc.ops.logarithms import floored_log
from archc.ops.node import Node, of
from archc.passes.log_decay import LogDecay
from archc.passes.matrix_scans import bonus_keys, grouped, split_decay
from archc.passes.scan_class import Factor, ScanClass, ScanKind

OUTPUTS: Mapping[ScanKind, tuple[str, ...]] = {
    "diagonal": ("a", "u"),
    "selective": ("dt", "v"),
    "chunked": ("log_a", "v"),
    "chunked_key": ("log_a", "k", "v", "q"),
}
"""What the outputs of the gates are called."""
BONUS = "b"
"""One more, the keys of what is added to the state before it is read; its values are v."""
Product = tuple[tuple[Placed | float | Given, int], ...]
"""Factors to the power of 1 or -1."""
Products = tuple[tuple[str, ...], Mapping[str, Product]]
"""The axes of a kernel's tile, and what its gates give as products."""


def _diagonal(found: ScanClass, numbers: Numbers) -> Products:
    decay, entering = (numbers.get((found.scan, i), factor(arg)) for i, arg in enumerate(found.scan.args))
    return found.scan.names, {"a": ((decay, 1),), "u": ((entering, 1),)}


def _selective(found: ScanClass, numbers: Numbers) -> Products:
    split = split_decay(found)
    assert split is not None
    return found.heads, {"dt": tuple((placed(v), 1) for v, _ in split[0]), "v": _values(found)}


def _outer(found: ScanClass, numbers: Numbers) -> Products:
    groups, heads = grouped(found)
    return (*groups, *heads, *found.value), {"log_a": ((factor(found.log_decay.operand), 1),), "v": _values(found)}


def _keyed(found: ScanClass, numbers: Numbers) -> Products:
    """What a head has goes to its keys, so that a bonus has the values of the update."""
    groups, heads = grouped(found)
    products = {
        "log_a": ((factor(found.log_decay.operand), 1),),
        "k": _product(*found.factors["head"], *found.factors["key"]),
        "v": _product(*found.factors["value"]),
        "q": ((placed(found.reads[0].query), 1),),
    }
    if found.bonus:
        products[BONUS] = _product(*bonus_keys(found))
    return (*groups, *heads, *found.value), products


def _values(found: ScanClass) -> Product:
    return _product(*found.factors["head"], *found.factors["value"])


def _product(*factors: Factor) -> Product:
    return tuple((factor(f.operand), f.power) for f in factors)


PRODUCTS: Mapping[ScanKind, Callable[[ScanClass, Numbers], Products]] = {
    "diagonal": _diagonal,
    "selective": _selective,
    "chunked": _outer,
    "chunked_key": _keyed,
}


def log_of(node: Node, decay: LogDecay) -> Node:
    """The log of a decay, from what it is taken of."""
    match decay.form:
        case "log_sigmoid":
            node = -of("softplus", -node)
        case "log_rest":
            node = -of("softplus", node)
        case "log":
            node = floored_log(node) if decay.has_floor else of("log", node)
    return node * decay.times


def decay_chain(found: ScanClass) -> set[Value]:
    """The decay, and what it is computed from, up to what its log is taken of."""
    out: set[Value] = set()
    value = found.scan.args[0]
    while isinstance(value, Value) and value is not found.log_decay.operand:
        out.add(value)
        (value,) = value.operands
    return out
