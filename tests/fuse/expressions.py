"""Expressions drawn at random, such as gates are made of: nowhere singular, so that values and derivatives are tame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from archc.fuse.dag import FIRST, Equations, new_nodes
from archc.ops.node import Node, Nodes, of
from archc.reference.frame import Array

LEAVES = ("x0", "x1", "x2", "w0", "w1")
SMOOTH = ("tanh", "erf", "sigmoid", "silu", "gelu", "gelu_tanh", "softplus", "sin", "cos", "neg", "abs", "relu", "sign")
GUARDED: dict[str, Callable[[Node], Node]] = {  # what keeps the operand in the domain
    "exp": lambda e: -of("softplus", e),
    "expm1": lambda e: -2 * of("softplus", e),
    "log": lambda e: 0.5 + of("sigmoid", e),
    "log1p": lambda e: of("sigmoid", e) - 0.5,
    "sqrt": lambda e: 0.1 + of("sigmoid", e),
    "rsqrt": lambda e: 0.1 + of("sigmoid", e),
    "inv_softplus": lambda e: 0.1 + of("softplus", e),
}
BINARY = ("add", "sub", "mul", "minimum", "maximum")
COMPARED = ("lt", "le", "gt", "ge", "eq", "ne")
NUMBERS = st.sampled_from([-1.5, -1.0, 0.0, 0.1, 0.5, 1.0, 2.0, 8.0])


def _of_truths(tree: Any) -> Any:
    name, left, right = tree
    return name, ("not", ("gt", left, 0.1)), ("lt", right, 0.3)


TREE: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.sampled_from(LEAVES), st.sampled_from(LEAVES), NUMBERS),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from([*SMOOTH, *GUARDED]), inner),
        st.tuples(st.sampled_from(BINARY), inner, inner),
        st.tuples(st.just("div"), inner, inner),
        st.tuples(st.just("pow"), inner, st.sampled_from([0, 1, 2, 3, -1, 0.5, 1.7, -2.5])),
        st.tuples(st.just("pow"), inner, inner),
        st.tuples(st.just("where"), st.just(("first",)), inner, inner),
        st.tuples(st.just("where"), st.tuples(st.sampled_from(COMPARED), inner, inner), inner, inner),
        st.tuples(
            st.just("where"), st.tuples(st.sampled_from(["and", "or"]), inner, inner).map(_of_truths), inner, inner
        ),
        st.tuples(st.just("mul"), st.tuples(st.just("gt"), inner, inner), inner),
    ),
    max_leaves=8,
)


def build(tree: Any, nodes: Nodes) -> Node:
    """The node of a tree."""
    if not isinstance(tree, tuple):
        return nodes.leaf(tree) if isinstance(tree, str) else nodes.number(tree)
    name, *rest = tree
    if name == "first":
        return nodes.leaf(FIRST, truth=True)
    args = [build(r, nodes) for r in rest]
    if name in GUARDED:
        return of(name, GUARDED[name](args[0]))
    if name == "div":
        return args[0] / (1.5 + of("sigmoid", args[1]))
    if name == "pow":
        exponent = args[1] if args[1].is_number() else of("tanh", args[1])
        return of("pow", 0.5 + of("sigmoid", args[0]), exponent)
    return of(name, *args)


def equations(*trees: Any) -> Equations:
    """Gates of three inputs and two weights, with a name for every other inner node."""
    nodes = new_nodes()
    outputs = tuple(build(t, nodes) for t in trees)
    x, w = (tuple(nodes.leaf(n) for n in LEAVES if n[0] == kind) for kind in "xw")
    drawn = Equations(outputs, x, w, (), {})
    inner = [n for n in drawn.nodes if n.args and not n.truth][::2]
    return Equations(outputs, x, w, (), {n: f"v{i}" for i, n in enumerate(inner)})


def arrays(drawn: Equations, seed: int = 0, count: int = 7) -> dict[Node, Array]:
    """A value for every leaf: [count], weights one number, as if broadcast over time."""
    rng = np.random.default_rng(seed)
    home = drawn.x[0].home
    out: dict[Node, Array] = {x: rng.normal(size=count) for x in (*drawn.x, *drawn.given)}
    out |= {w: rng.normal(size=1) for w in drawn.w}
    out[home.leaf(FIRST, truth=True)] = np.arange(count) % 3 == 0
    return out
