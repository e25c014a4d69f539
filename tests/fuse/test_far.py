"""What is written of exponentials and sigmoids keeps its value and its slope in single precision, however far out.

Against the same expressions in 150 decimal digits, where nothing underflows, and their differences.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from numpy.typing import NDArray

from archc import api
from archc.emit.project import model_code
from archc.fuse.dag import Equations, new_nodes
from archc.fuse.fused_scan import FusedScan
from archc.ops.node import Node, of
from tests.fuse.test_printers import Run, in_jax, in_torch, template, triton, with_equations, worker
from tests.parity.agreement import checked
from tests.parity.models import emitted

__all__ = ["template", "triton", "worker"]  # fixtures

GRID = np.float32(
    [-200, -150, -110, -103, -95, -89, -80, -60, -40, -25, -17, -9, -4, -1, -0.1, -0.001,
     0, 0.001, 0.1, 1, 4, 9, 17, 25, 40, 60, 80, 89, 95, 103, 150, 200]
)  # fmt: skip
STEP = Decimal(10) ** -40
Exact = Callable[[Decimal], Decimal]


def sigmoid(x: Decimal) -> Decimal:
    return 1 / (1 + (-x).exp())


FORMS: dict[str, Exact] = {
    "sigmoid(x) ^ 0.25": lambda x: sigmoid(x) ** Decimal("0.25"),
    "sigmoid(x) ^ 0.01": lambda x: sigmoid(x) ** Decimal("0.01"),
    "sigmoid(x) ^ 1.5": lambda x: sigmoid(x) ** Decimal("1.5"),
    "sigmoid(x) ^ -0.1": lambda x: sigmoid(x) ** Decimal("-0.1"),
    "sqrt(sigmoid(x))": lambda x: sigmoid(x).sqrt(),
    "rsqrt(sigmoid(x))": lambda x: 1 / sigmoid(x).sqrt(),
    "sqrt(1 - sigmoid(x))": lambda x: sigmoid(-x).sqrt(),
    "log(sigmoid(x))": lambda x: sigmoid(x).ln(),
    "log(1 - sigmoid(x))": lambda x: sigmoid(-x).ln(),
    "log1p(-sigmoid(x))": lambda x: sigmoid(-x).ln(),
    "sqrt(exp(x))": lambda x: x.exp().sqrt(),
    "exp(x) ^ 0.3": lambda x: (x * Decimal("0.3")).exp(),
    "log(exp(x))": lambda x: x,
    "log1p(exp(x))": lambda x: (1 + x.exp()).ln(),
    "log(1 + exp(x))": lambda x: (1 + x.exp()).ln(),
    "log(exp(x) + exp(-x))": lambda x: (x.exp() + (-x).exp()).ln(),
    "1 / (1 + exp(-x))": sigmoid,
    "x / (1 + exp(-x))": lambda x: x * sigmoid(x),
    "exp(x) / (1 + exp(x))": sigmoid,
    "exp(-x) / (exp(x) + exp(-x))": lambda x: sigmoid(-2 * x),
    "(sigmoid(x) * (1 - sigmoid(x))) ^ 0.2": lambda x: (sigmoid(x) * sigmoid(-x)) ** Decimal("0.2"),
    "sqrt(1 / (1 + exp(x)))": lambda x: sigmoid(-x).sqrt(),
}
FLAT: dict[str, Exact] = {  # of what is 0 at 0 or below, where it has no slope
    "sqrt(x ^ 2)": abs,
    "sqrt(relu(x))": lambda x: max(x, Decimal(0)).sqrt(),
    "relu(x) ^ 0.7": lambda x: max(x, Decimal(0)) ** Decimal("0.7") if x > 0 else Decimal(0),
    "abs(x) ^ 0.3": lambda x: abs(x) ** Decimal("0.3") if x else Decimal(0),
    "x / max(sqrt(x ^ 2), 1e-6)": lambda x: x / max(abs(x), Decimal("1e-6")),
}
SLOPES = {"x / max(sqrt(x ^ 2), 1e-6)": 1e6}
"""At 0, where it is not 0."""
ALL = FORMS | FLAT
LOSE = frozenset(text for text in FORMS if "/ (" in text and "sqrt" not in text) | {
    "log(exp(x) + exp(-x))",
    "x / max(sqrt(x ^ 2), 1e-6)",
}
"""Of numbers around 1, whose slopes may be differences of such: exact to the last places of 1."""
OPERATORS = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Pow: "pow"}


@cache
def exact(text: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values and slopes on the grid, nan where they are outside of the range of single precision."""
    values, slopes = [], []
    with localcontext() as context:
        context.prec = 150
        for x in map(Decimal, map(float, GRID)):
            value, before, after = (ALL[text](x + step) for step in (0, -STEP, STEP))
            slope = SLOPES.get(text, 0.0) if not x and text in FLAT else (after - before) / (2 * STEP)
            values.append(float(value))
            slopes.append(float(slope))
    found = np.array([values, slopes])
    return tuple(np.where((np.abs(found) < 1e36) & ((np.abs(found) > 1e-36) | (found == 0)), found, np.nan))  # type: ignore[return-value]


def near(got: Any, wanted: NDArray[np.float64], what: str) -> None:
    got = np.asarray(got, np.float64).reshape(-1)
    assert got.shape == wanted.shape
    known = np.isfinite(wanted)
    lost = 3e-6 if what in LOSE else 1e-36
    np.testing.assert_allclose(got[known], wanted[known], rtol=3e-5, atol=lost, err_msg=what)
    assert not np.isnan(got).any(), f"{what}: {got}"


def built(text: str, x: Node) -> Node:
    """The node of an expression of x."""

    def node(tree: ast.expr) -> Node:
        match tree:
            case ast.BinOp():
                return of(OPERATORS[type(tree.op)], node(tree.left), node(tree.right))
            case ast.UnaryOp():
                return -node(tree.operand)
            case ast.Call(func=ast.Name(id=name)):
                return of({"max": "maximum"}.get(name, name), *map(node, tree.args))
            case ast.Constant(value=float() | int() as value):
                return x.home.number(value)
        return x

    return node(ast.parse(text.replace("^", "**"), mode="eval").body)


PAIRS = [(one, other) for one, other in zip([*ALL][::2], [*ALL][1::2] + [*ALL][:1], strict=False)]


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_gates_are_exact_far_out(triton: Run, template: FusedScan, pair: tuple[str, str]) -> None:
    x = [new_nodes().leaf("x0")]
    x.append(x[0].home.leaf("x1"))
    fused = with_equations(template, Equations(tuple(map(built, pair, x)), tuple(x), (), (), {}))
    tile = GRID.reshape(8, 4)
    given = {"x": [tile, tile], "w": [], "first": [np.zeros((8, 1), np.int32)], "d": [np.ones_like(tile)] * 2}
    given["read"] = [tile]
    for run in (in_torch, in_jax, triton):
        gates = run(fused, given)["gates"]
        for text, value, slope in zip(pair, gates[:2], gates[2:], strict=True):
            for got, wanted in zip((value, slope), exact(text), strict=True):
                near(got, wanted, text)


LINES = "\n".join(f"    y{i} = {text}" for i, text in enumerate(ALL))
NAMED = """    s = sigmoid(x)
    e = exp(-x)
    d = 1 + e
    t = s * (1 - s)
    z0 = s ^ 0.25
    z1 = 1 / d
    z2 = t ^ 0.2"""
TEXT = f"""
model far(width = 1, vocab = {len(GRID)}) {{
    x = E[vocab width](tokens)
{LINES}
{NAMED}
    return {", ".join(f"y{i}" for i in range(len(ALL)))}, z0, z1, z2
}}
"""
WRITTEN = [*ALL, "sigmoid(x) ^ 0.25", "1 / (1 + exp(-x))", "(sigmoid(x) * (1 - sigmoid(x))) ^ 0.2"]


@pytest.mark.parametrize("backend", ["torch", "flax"])
def test_what_better_forms_alone_read_has_no_line(backend: str) -> None:
    text = model_code(checked(TEXT), api._target(backend), 64)["model.py"]
    assert "z2 = " in text
    assert re.findall(r"^ +([sedt]|\w+_in) = .*", text, re.MULTILINE) == []


def test_models_are_exact_far_out_in_torch() -> None:
    model = emitted(checked(TEXT), "torch").Model()
    model.E.data = torch.tensor(GRID)[:, None]
    outputs = model(torch.arange(len(GRID))[None])
    for text, output in zip(WRITTEN, outputs, strict=True):
        (slope,) = torch.autograd.grad(output.sum(), model.E, retain_graph=True)
        for got, wanted in zip((output.detach(), slope), exact(text), strict=True):
            near(got, wanted, text)


def test_models_are_exact_far_out_in_flax() -> None:
    model = emitted(checked(TEXT), "flax").Model(rngs=nnx.Rngs(0))
    tokens = jnp.arange(len(GRID))[None]
    graph, state = nnx.split(model)
    (_,), tree = jax.tree.flatten(state)

    def outputs(E: jax.Array) -> tuple[jax.Array, ...]:
        found: tuple[jax.Array, ...] = nnx.merge(graph, jax.tree.unflatten(tree, [E]))(tokens)
        return found

    for i, text in enumerate(WRITTEN):  # one at a time, for others may overflow, and 0 times infinity is nan
        output, back = jax.vjp(lambda E, i=i: outputs(E)[i], jnp.asarray(GRID)[:, None])
        for got, wanted in zip((output, *back(jnp.ones_like(output))), exact(text), strict=True):
            near(got, wanted, text)
