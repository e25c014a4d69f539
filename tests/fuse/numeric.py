"""Nodes evaluated in NumPy, each op by its own rule in the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from archc.fuse.dag import ordered
from archc.fuse.planes import STATES, VALUES, ZEROS, sum_along
from archc.ir.graph import Kind, Type, Value
from archc.ops.node import Node
from archc.reference.frame import Array, Frame
from archc.reference.rules import RULES

NOWHERE = Frame(RULES, {}, {}, np.zeros((1, 0), dtype=np.int64), 0, {})


def evaluate(outputs: Sequence[Node], leaves: Mapping[Node, Array]) -> tuple[Array, ...]:
    """The outputs in NumPy, by the reference of each op. Leaves are arrays that broadcast."""
    found: dict[Node, Any] = dict(leaves)
    for node in ordered(outputs):
        if node.op == "number":
            found[node] = np.asarray(node.value)
        elif node.op in (sum_along(VALUES), sum_along(STATES)):
            found[node] = found[node.args[0]].sum(-1, keepdims=True)
        elif node.op == ZEROS:
            found[node] = np.zeros_like(found[node.args[0]])
        elif node not in found:
            found[node] = _apply(node.op, [found[a] for a in node.args])
    return tuple(found[o] for o in outputs)


def _apply(op: str, operands: Sequence[Array]) -> Array:
    bare = Value(-1, op, (0.0,) * len(operands), Type(Kind.WEIGHT))
    with np.errstate(all="ignore"):
        return np.asarray(RULES[op](bare, tuple(operands), NOWHERE))
