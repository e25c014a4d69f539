"""How much of what follows a convolution runs in its kernel."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archc.fuse.convs import FusedConv, fused_convs
from archc.fuse.scans import fused_scans
from archc.ir.graph import Graph

CONV = "c = conv(x, w[taps = 3 width])\n"


def found(graph: Graph) -> FusedConv:
    (fused,) = fused_convs(graph).values()
    return fused


@pytest.mark.parametrize(
    ("rest", "biased", "silu", "result"),
    [
        ("return c @ W[width -> width']", False, False, "conv"),
        ("return (c + b[width]) @ W[width -> width']", True, False, "add"),
        ("return silu(b[width] + c) @ W[width -> width']", True, True, "silu"),
        ("return silu(c) @ W[width -> width']", False, True, "silu"),
        ("return tanh(c + b[width]) @ W[width -> width']", True, False, "add"),
        ("return (c + 1) @ W[width -> width']", False, False, "conv"),
        ("return (c + x) @ W[width -> width']", False, False, "conv"),
        ("return (c * b[width]) @ W[width -> width']", False, False, "conv"),
        ("s = c + b[width]\nreturn (silu(s) * s) @ W[width -> width']", True, False, "add"),  # both read the sum
        ("return silu(c + b[width]) @ W[width -> width'] + c", False, False, "conv"),
        ("return c + b[width]", True, False, "add"),  # what the block adds is not of this function
        ("return fp32(c) + b[width]", False, False, "conv"),
    ],
)
def test_bias_and_activation_run_in_the_kernel(
    mixer: Callable[..., Graph], rest: str, biased: bool, silu: bool, result: str
) -> None:
    fused = found(mixer(CONV + rest))
    assert (fused.bias is not None, fused.silu, fused.result.op) == (biased, silu, result)
    assert fused.result not in fused.computed
    assert len(fused.computed) == biased + silu


def test_what_another_kernel_computes_it_does_not(mixer: Callable[..., Graph]) -> None:
    graph = mixer(CONV + "return scan(decay = 0.5, input = silu(c + b[width]))")
    (scan,) = fused_scans(graph).values()
    (fused,) = fused_convs(graph, scan.computed).values()
    assert fused.result is fused.conv
