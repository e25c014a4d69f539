"""Sums of keys that divide what a scan of outer products gives: when they are computed in its kernel."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archc.fuse.fused_scan import FusedScan
from archc.fuse.scans import fused_scans
from archc.ir.graph import Graph
from tests.fuse.evaluation import leaves, run
from tests.fuse.test_scans import check_derivatives, check_values, names

BODY = """
    q = exp(x @ W_q[heads = 2 key = 3])
    k = exp(x @ W_k[heads key])
    a = sigmoid(x @ W_a[heads])
    S = scan(decay = a, input = k * (x @ W_v[heads value = 5]))
    z = scan(decay = {decay}, input = k)
    n = dot(z, q, over = key)
    y = dot(S, q, over = key) / (n + 1e-6)
    return {result} @ W_o[heads value -> width]
"""


def outer(graph: Graph) -> FusedScan:
    """The scan of outer products, its equations against the reference."""
    check_values(graph)
    return next(f for v, f in fused_scans(graph).items() if v.label == "S")


def test_what_divides_a_read_out_runs_in_its_kernel(mixer: Callable[..., Graph]) -> None:
    graph = mixer(BODY.format(decay="a", result="(y * sigmoid(x @ W_g[heads value]))"))
    fused = outer(graph)
    assert fused.normaliser is not None
    assert fused.out is not None
    assert fused.out_grad is not None
    assert (fused.normaliser.name, fused.normaliser.axes) == ("n", ("heads",))
    assert [leaf.name for leaf in fused.out.x] == [*names(fused.inputs), "n"]
    assert {"S", "z", "n", "y"} <= {v.label for v in fused.computed}
    check_derivatives(fused, fused.out, fused.out_grad, leaves(run(graph), fused))


def test_a_normaliser_that_is_read_elsewhere_too_is_a_second_result(mixer: Callable[..., Graph]) -> None:
    fused = outer(mixer(BODY.format(decay="a", result="(y * exp(n @ W_n[heads -> value]))")))
    assert fused.gates is None
    assert fused.found.normaliser is not None
    assert fused.reason == "its normaliser is read outside of its kernel"


@pytest.mark.parametrize("update", ["i * k * v", "k * (i * tanh(v))", "tanh(v) * i * k", "k * v * i / 2"])
def test_an_input_gate_of_both_is_a_factor_of_the_keys(mixer: Callable[..., Graph], update: str) -> None:
    """As in mLSTM, which divides by the magnitude of the sum, or by one; however the product is put together."""
    body = f"""
    q = x @ W_q[heads = 2 key = 3]
    k = x @ W_k[heads key]
    i = exp(-abs(x @ W_i[heads]))
    v = x @ W_v[heads value = 5]
    a = sigmoid(x @ W_a[heads])
    S = scan(decay = a, input = {update})
    z = scan(decay = a, input = i * k)
    n = dot(z, q, over = key)
    y = dot(S, q, over = key) / max(abs(n), 1)
    return y @ W_o[heads value -> width]
"""
    fused = outer(mixer(body))
    assert fused.normaliser is not None
    assert {"S", "z", "n"} <= {v.label for v in fused.computed}
    assert fused.result.label == "y"


@pytest.mark.parametrize("decay", ["0.5", "a ^ 2"])
def test_sums_with_another_decay_are_handed_in(mixer: Callable[..., Graph], decay: str) -> None:
    fused = outer(mixer(BODY.format(decay=decay, result="y")))
    assert fused.normaliser is None
    assert "n" in names(fused.inputs)
