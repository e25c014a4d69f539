"""Ranges of values: what the reference computes lies inside, and decays that are above 0 are found."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np
import pytest

from archc.ir.graph import Graph, Value
from archc.passes.ranges import Range, range_of
from archc.passes.scans import classify
from tests.fuse.evaluation import run

ABOVE = [
    "exp(x)", "sigmoid(x)", "1 - sigmoid(x)", "0.9", "softplus(x) + 0.1", "max(x, 0.1)", "clip(x, 0.01, 1)",
    "0.5 + 0.4 * erf(x)", "1 + tanh(x)", "sigmoid(x) * sigmoid(-x)", "1 / (1 + exp(x))", "softmax(x)",
    "cumsum(softmax(x), over = width)", "2 ^ (-1 - index(width))", "1 - 2 ^ (-1 - index(width))", "sqrt(exp(x))",
    "where(pos == 0, 0.5, sigmoid(x))", "min(exp(x), 1)", "sum(exp(x)) * exp(x)", "abs(x) + 1e-3", "1.5 - sin(x)",
    "1 - exp(-exp(x))", "1 - exp(-softplus(x))", "exp(min(x, 2))", "2 - exp(-abs(x))", "3 - exp(sin(x))",
    "relu(x) / softplus(x) + 0.1", "(0.1 + sigmoid(x)) ^ 3", "rsqrt(1 + x ^ 2)", "0.3 ^ sigmoid(x)",
]  # fmt: skip
UNKNOWN = [
    "x", "tanh(x)", "relu(x)", "-0.5 + 0 * x", "x ^ 2", "1 - 2 * sigmoid(x)", "cos(x)", "w[width]", "abs(x)", "x * x",
    "sigmoid(x) - 0.1", "clip(x, 0, 1)", "where(pos == 0, 0, exp(x))", "1 - exp(x)", "sign(x)", "1 / x", "x ^ 3",
    "softmax(x) - sigmoid(x)", "-exp(x)", "max(x, tanh(x))", "expm1(x)", "1 - cumsum(softmax(x), over = width)",
    "softmax(x, where = x > 0)", "1 - exp(-abs(x))", "1 - exp(-relu(x))", "2 - exp(sin(x))", "1 - exp(w[width])",
]  # fmt: skip


def decay_of(graph: Graph) -> Value:
    return next(v.args[0] for r, _ in graph.regions() for v in r.values if v.op == "scan")  # type: ignore[return-value]


@pytest.mark.parametrize(("text", "positive"), [*((t, True) for t in ABOVE), *((t, False) for t in UNKNOWN)])
def test_what_a_decay_is_made_of_says_whether_it_is_above_0(
    mixer: Callable[[str], Graph], text: str, positive: bool
) -> None:
    graph = mixer(f"a = {text}\nreturn scan(decay = a + 0 * x, input = x) + a")
    value = decay_of(graph).args[0]
    while isinstance(value, Value) and value.op in ("fp32", "rename"):
        (value,) = value.operands
    found = range_of(value)
    assert found.positive == positive
    if isinstance(value, Value):
        made = np.asarray(run(graph).values[value], dtype=np.float64)
        assert (found.low - 1e-12 <= made).all()
        assert (made <= found.high + 1e-12).all()
        assert not positive or (made > 0).all()


@pytest.mark.parametrize(
    ("text", "positive"),
    [
        ("1 - dt / (1 + dt)", True), ("1 - 0.5 * dt / (dt + 1)", True), ("1 - r / (r + dt)", True),
        ("1 - 2 * dt / (1 + dt)", False), ("1 - dt / (dt + r)", False), ("1 - dt / (1 + x)", False),
    ],
)  # fmt: skip
def test_a_part_of_a_sum_is_a_share_of_it(mixer: Callable[[str], Graph], text: str, positive: bool) -> None:
    graph = mixer(f"dt = softplus(x)\nr = relu(x)\nreturn scan(decay = {text}, input = x + r)")
    assert range_of(decay_of(graph)).positive == positive


def test_a_power_too_large_for_a_number_is_infinite(mixer: Callable[[str], Graph]) -> None:
    graph = mixer("a = 10 ^ (300 * (1 + index(width)))\nreturn scan(decay = 1 / a + 0 * x, input = x)")
    (power,) = (v for r, _ in graph.regions() for v in r.values if v.op == "pow")
    assert range_of(power).high == inf


def test_a_product_reaches_an_end_only_if_its_factors_do() -> None:
    unit, shares = Range(0, 1, True, True), Range(0, 1)
    assert unit * shares == Range(0, 1, False, True)
    assert unit * unit == unit
    assert -unit * Range(2, 3) == Range(-3, 0, True, True)
    assert Range(0, 0) * Range() == Range(0, 0)
    assert Range(-2, 3) * Range(-1, 4) == Range(-8, 12)


def test_decays_of_published_models_are_above_0(tiny: Callable[[str], Graph]) -> None:
    """HGRN-2's is a share, a running sum without its first summand, and the rest of it times a sigmoid."""
    for name, kind in (("hgrn2", "chunked_key"), ("retnet", "chunked"), ("performer", "chunked")):
        kinds = [c.kind for c in classify(tiny(name)).values() if c.normalises is None]
        assert set(kinds) == {kind}
