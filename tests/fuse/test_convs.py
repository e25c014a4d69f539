"""How much of what follows a convolution runs in its kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from archc.fuse.convs import FusedConv, fused_convs
from archc.fuse.scans import fused_scans
from archc.ir.graph import Graph
from tests.fuse.evaluation import run
from tests.fuse.numeric import evaluate

CONV = "c = conv(x, w[taps = 3 width])\n"


def found(graph: Graph) -> FusedConv:
    (fused,) = fused_convs(graph).values()
    return fused


@pytest.mark.parametrize(
    ("rest", "biased", "ops", "result"),
    [
        ("return c @ W[width -> width']", False, [], "conv"),
        ("return (c + b[width]) @ W[width -> width']", True, [], "add"),
        ("return silu(b[width] + c) @ W[width -> width']", True, ["silu"], "silu"),
        ("return silu(c) @ W[width -> width']", False, ["silu"], "silu"),
        ("return tanh(c + b[width]) @ W[width -> width']", True, ["tanh"], "tanh"),
        ("return (relu(c) ^ 2) @ W[width -> width']", False, ["relu", "mul"], "pow"),
        ("return (c + 1) @ W[width -> width']", False, ["add"], "add"),
        ("return (c * b[width] + x) @ W[width -> width']", False, ["mul", "add"], "add"),
        ("s = c + b[width]\nreturn (silu(s) * s) @ W[width -> width']", True, ["silu", "mul"], "mul"),
        ("g = x @ V[width]\nreturn (silu(g) * gelu(c)) @ W[width -> width']", False, ["silu", "gelu", "mul"], "mul"),
        ("return silu(c + b[width]) @ W[width -> width'] + c", False, [], "conv"),  # it is read elsewhere, too
        ("return c + b[width]", True, [], "add"),  # what the block adds is not of this function
        ("return (fp32(c) + b[width]) @ W[width -> width']", False, [], "conv"),  # no result in single precision
        ("return (c * sum(x, over = width)) @ W[width -> width']", False, [], "conv"),  # of no channel
        ("return where(pos == 0, 0, c) @ W[width -> width']", False, [], "conv"),  # a start
        ("return (c * sum(c * c, over = width)) @ W[width -> width']", False, [], "conv"),  # other elements
    ],
)
def test_what_follows_runs_in_the_kernel(
    mixer: Callable[..., Graph], rest: str, biased: bool, ops: list[str], result: str
) -> None:
    fused = found(mixer(CONV + rest))
    inside = [] if fused.activation is None else [n.op for n in fused.activation.nodes if n.args]
    assert (fused.bias is not None, sorted(inside), fused.result.op) == (biased, sorted(ops), result)
    assert fused.result not in fused.computed


def test_it_computes_what_the_reference_does(mixer: Callable[..., Graph]) -> None:
    """From the convolution, tokens and weights that the reference has; derivatives by finite differences."""
    text = "g = x @ V[width]\ns = c + b[width]\nreturn (tanh(s * a[width]) * silu(g) + s ^ 2 / 2) @ W[width -> width']"
    graph = mixer(CONV + text)
    fused, frame = found(graph), run(graph)
    assert fused.activation is not None
    assert fused.gradient is not None
    (start,) = fused.activation.given
    total = next(v for v in fused.computed if v.op == "add" and fused.conv in v.operands)
    nodes = (start, *fused.activation.x, *fused.activation.w)
    values = (total, *(h.value for h in (*fused.inputs, *fused.weights)))
    at = {n: np.array(np.broadcast_to(frame.values[v], (2, 10, 4))) for n, v in zip(nodes, values, strict=True)}
    (out,) = evaluate(fused.activation.outputs, at)
    np.testing.assert_allclose(out, frame.values[fused.result], rtol=1e-12)
    seed = fused.gradient.given[-1]
    slopes = evaluate(fused.gradient.outputs, {**at, seed: np.ones((2, 10, 4))})
    for node, slope in zip(nodes, slopes, strict=True):
        ((above,), (below,)) = (evaluate(fused.activation.outputs, {**at, node: at[node] + d}) for d in (1e-6, -1e-6))
        np.testing.assert_allclose(np.broadcast_to(slope, above.shape), (above - below) / 2e-6, rtol=2e-6, atol=2e-7)


def test_what_is_convolved_has_a_name_although_a_gate_reads_it_too(mixer: Callable[..., Graph]) -> None:
    text = "g = x @ V[width -> width']\nd = conv(g, v[taps = 3 width])\nreturn (g * silu(d) + c) @ W[width -> width']"
    for fused in fused_convs(mixer(CONV + text)).values():
        assert not fused.computed & {*fused.conv.operands, *(h.value for h in fused.inputs)}


@pytest.mark.parametrize(
    ("rest", "result"),
    [
        ("return g(c) @ W[width -> width']\n}\nfn g(x[width]) { return relu(x) ^ 2", "pow"),
        ("return g(c) @ W[width -> width']\n}\nfn g(y[width]) { return sin(a[width] * y)", "sin"),
        ("return g(c) @ W[width -> width']\n}\nfn g(x[width]) { return relu(x) * sum(x ^ 2, over = width)", "conv"),
        ("return g(c) @ W[width -> width']\n}\nfn g(x[width]) { return x * sigmoid(x @ V[width -> width'])", "conv"),
    ],
)
def test_a_function_that_is_called_runs_there_if_it_needs_no_other_element(
    mixer: Callable[..., Graph], rest: str, result: str
) -> None:
    assert found(mixer(CONV + rest)).result.op == result


def test_of_two_convolutions_the_later_one_takes_their_product(mixer: Callable[..., Graph]) -> None:
    text = "d = conv(x, v[taps = 3 width])\nreturn (silu(c) * gelu(d)) @ W[width -> width']"
    first, second = fused_convs(mixer(CONV + text)).values()
    assert (first.only, first.result.op, second.result.op) == ("silu", "silu", "mul")
    assert [h.value for h in second.inputs] == [first.result]
    assert not first.computed & second.computed


def test_bytes_are_those_of_tokens_and_of_the_result(mixer: Callable[..., Graph]) -> None:
    moved = found(mixer(CONV + "return (silu(c + b[width]) * (x @ V[width])) @ W[width -> width']")).traffic
    assert (moved.forward, moved.backward) == (2 * 3, 2 * (3 + 2))
    assert moved.separate == 2 * (2 + 2 + 2 + 3)  # the convolution, the sum, silu, the product


def test_what_another_kernel_computes_it_does_not(mixer: Callable[..., Graph]) -> None:
    graph = mixer(CONV + "return scan(decay = 0.5, input = silu(c + b[width]))")
    (scan,) = fused_scans(graph).values()
    (fused,) = fused_convs(graph, scan.computed).values()
    assert fused.result is fused.conv
