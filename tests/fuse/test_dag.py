"""Derivatives of every rule and of random expressions, against finite differences and PyTorch; and the rewrites."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from archc.fuse.dag import Equations, gradient, new_nodes, ordered
from archc.ops.node import Node, Nodes, of, where
from archc.ops.table import OPS
from archc.reference.frame import Array
from tests.fuse.expressions import TREE, arrays, equations
from tests.fuse.numeric import evaluate

AWAY = {  # operands inside of the domain and away from kinks
    **{name: [(0.3, 1.1, 2.7)] for name in ("log", "sqrt", "rsqrt", "inv_softplus")},
    "log1p": [(-0.6, 0.4, 2.0)],
    "pow": [(0.4, 1.3, 2.0), (1.7, -0.6, 2.0)],
    "div": [(0.4, -1.3, 2.0), (1.7, -0.6, 2.0)],
    "where": [(1.0, 0.0, 1.0), (0.4, -1.3, 2.0), (1.7, -0.6, 2.0)],
}
TWO = ("add", "sub", "mul", "div", "pow", "minimum", "maximum")
TRUTHS = ("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not")
DERIVED = sorted(n for n, op in OPS.items() if op.flow in ("pointwise", "alias") and not isinstance(op.derivative, str))


def derivatives(outputs: Sequence[Node], leaves: Sequence[Node]) -> tuple[Node, ...]:
    """Of the sum of the outputs, each weighed with its place."""
    home = outputs[0].home
    drawn = Equations(tuple(outputs), tuple(leaves), (), (), {})
    seeds = [home.leaf(f"seed{i}") for i in range(len(outputs))]
    return gradient(drawn, seeds, leaves).outputs


def differences(outputs: Sequence[Node], at: Mapping[Node, Array], wanted: Node, step: float) -> Array:
    """Central differences of the sum that `derivatives` differentiates, one element at a time."""

    def value(shift: float) -> Array:
        moved = {**at, wanted: at[wanted] + shift}
        return sum((i + 1.0) * v for i, v in enumerate(evaluate(outputs, moved)))  # type: ignore[return-value]

    return (value(step) - value(-step)) / (2 * step)


def seeds(nodes: Nodes, count: int) -> dict[Node, Array]:
    return {nodes.leaf(f"seed{i}"): np.asarray(i + 1.0) for i in range(count)}


@pytest.mark.parametrize("name", [n for n in DERIVED if n != "rename"])
def test_the_rule_of_every_op_is_the_slope_of_its_reference(name: str) -> None:
    nodes = new_nodes()
    count = {"where": 3, **dict.fromkeys(TWO, 2)}.get(name, 1)
    numbers = AWAY.get(name, [(0.4, -1.3, 2.2), (1.7, -0.6, 2.0)])
    leaves = [nodes.leaf(f"a{i}", truth=name == "where" and i == 0) for i in range(count)]
    at: dict[Node, Array] = {leaf: np.array(n) for leaf, n in zip(leaves, numbers, strict=False)}
    if name == "where":
        at[leaves[0]] = at[leaves[0]] > 0
    result = of(name, *leaves) * 1.5
    real = [leaf for leaf in leaves if not leaf.truth]
    for leaf, slope in zip(real, evaluate(derivatives([result], real), at | seeds(nodes, 1)), strict=True):
        np.testing.assert_allclose(
            np.broadcast_to(slope, 3), differences([result], at, leaf, 1e-6), rtol=1e-7, atol=1e-9
        )


def test_every_element_wise_op_says_what_its_derivative_is() -> None:
    said = {n: op.derivative for n, op in OPS.items() if op.flow in ("pointwise", "alias")}
    assert {n for n, d in said.items() if d == "zero"} == {*TRUTHS, "sign"}
    assert {n for n, d in said.items() if d == "framework"} == {"complex", "real", "imag", "rename"}


def test_an_op_that_is_left_to_the_framework_has_no_slopes() -> None:
    x = new_nodes().leaf("x")
    with pytest.raises(TypeError, match="'contract' is differentiated by the framework"):
        OPS["contract"].slopes(x, x, (x, x))


TORCH: dict[str, Callable[..., Tensor]] = {
    **{n: getattr(torch, n) for n in ("add", "sub", "mul", "div", "pow", "minimum", "maximum", "neg", "abs", "sign")},
    **{n: getattr(torch, n) for n in ("exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "sin", "cos", "tanh", "erf")},
    **{n: getattr(torch, n) for n in ("sigmoid", "where", "eq", "ne", "lt", "le", "gt", "ge", "relu")},
    "and": torch.logical_and,
    "or": torch.logical_or,
    "not": torch.logical_not,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "inv_softplus": lambda x: x + torch.log(-torch.expm1(-x)),
}


def in_torch(outputs: Sequence[Node], at: Mapping[Node, Array]) -> tuple[list[Tensor], dict[Node, Tensor]]:
    """The outputs, and the leaves that they are functions of."""
    leaves = {n: torch.tensor(a) for n, a in at.items()}
    found: dict[Node, Tensor] = {n: t if n.truth else t.requires_grad_() for n, t in leaves.items()}
    for node in ordered(outputs):
        if node.op == "number":
            found[node] = torch.tensor(node.value, dtype=torch.float64)
        elif node not in found:
            found[node] = TORCH[node.op](*(found[a] for a in node.args))
    return [found[o] for o in outputs], leaves


@settings(max_examples=150, deadline=None)
@given(first=TREE, second=TREE)
def test_derivatives_of_random_expressions_are_those_of_torch(first: Any, second: Any) -> None:
    drawn = equations(first, second)
    at = arrays(drawn)
    wanted = (*drawn.x, *drawn.w)
    mine = evaluate(derivatives(drawn.outputs, wanted), at | seeds(wanted[0].home, 2))
    outputs, leaves = in_torch(drawn.outputs, at)
    total = sum(((i + 1) * o.expand(7)).sum() for i, o in enumerate(outputs))
    for value, node in zip(outputs, drawn.outputs, strict=True):
        np.testing.assert_allclose(value.detach().numpy(), evaluate([node], at)[0], rtol=1e-10, atol=1e-12)
    if not isinstance(total, Tensor) or not total.requires_grad:
        assert not any(np.any(m) for m in mine)
        return
    theirs = torch.autograd.grad(total, [leaves[n] for n in wanted], allow_unused=True)
    for node, m, t in zip(wanted, mine, theirs, strict=True):
        spread = np.broadcast_to(m, 7)
        found = spread if at[node].shape == (7,) else spread.sum(keepdims=True)
        np.testing.assert_allclose(found, np.zeros_like(found) if t is None else t.numpy(), rtol=1e-8, atol=1e-9)


@settings(max_examples=150, deadline=None)
@given(first=TREE, second=TREE)
def test_derivatives_of_random_expressions_are_finite_differences(first: Any, second: Any) -> None:
    drawn = equations(first, second)
    at = {n: np.broadcast_to(a, 7) for n, a in arrays(drawn).items()}
    wanted = (*drawn.x, *drawn.w)
    mine = evaluate(derivatives(drawn.outputs, wanted), at | seeds(wanted[0].home, 2))
    for node, slope in zip(wanted, mine, strict=True):
        coarse, fine = (differences(drawn.outputs, at, node, h) for h in (2e-5, 1e-5))
        smooth = np.abs(coarse - fine) < 1e-6 * (1 + np.abs(fine))  # no kink between the two points
        np.testing.assert_allclose(
            np.broadcast_to(slope, 7)[smooth], np.broadcast_to(fine, 7)[smooth], rtol=1e-5, atol=1e-6
        )


def test_the_derivative_of_a_root_is_finite_where_it_is_zero() -> None:
    nodes = new_nodes()
    x = nodes.leaf("x")
    (slope,) = derivatives([of("sqrt", x) * x], [x])
    assert evaluate([slope], {x: np.zeros(1), **seeds(nodes, 1)})[0] == 0


def test_derivatives_share_what_the_forward_pass_computes() -> None:
    """One exponential in the sigmoid-like gate and its derivative, and the square of the decay instead of another."""
    nodes = new_nodes()
    log = nodes.leaf("log")
    gates = (of("exp", log), of("sqrt", -of("expm1", 2 * log)))
    found = ordered([*gates, *derivatives(gates, [log])])
    assert [n for n in found if n.op == "exp"] == [gates[0]]
    assert gates[0] * gates[0] in found


def test_nodes_are_made_once_and_simplified() -> None:
    nodes = new_nodes()
    x, y = nodes.leaf("x"), nodes.leaf("y")
    assert x + y is y + x
    assert x * y is y * x
    assert x - y is not y - x
    assert (x + 0, x - 0, 1 * x, x / 1, of("neg", -x)) == (x,) * 5
    assert (0 * x).is_number(0)
    assert 2 * (x * 4) is x * 8
    assert x + -y is x - y
    assert -x * -y is x * y
    assert x / 4 is 0.25 * x
    assert (x / 3).op == "div"
    assert [of("pow", x, n) for n in (0.5, -1, 1, 2)] == [of("sqrt", x), 1 / x, x, x * x]
    assert of("pow", nodes.number(1.0), x).is_number(1)
    assert of("fp32", x) is of("narrow", x) is x
    assert where(x > 0, y, y) is y
    assert of("exp", nodes.number(2.0)).value == math.exp(2)
    assert x * (y > 0) is where(y > 0, x, 0)
    assert of("and", y > 0, 1) is (y > 0)
    assert of("or", y > 0, 1).is_number(1)
    assert of("not", x) is of("not", of("ne", x, 0))
    assert ordered([of("exp", x) * x])[0] is x
