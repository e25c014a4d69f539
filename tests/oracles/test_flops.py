"""Matrix operations of the emitted PyTorch models, eager, against PyTorch's own counter: exactly."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from archc.backends.torch.executed import TorchKernels
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import archc
from archc.emit.executed import executed
from archc.passes.flops import flops
from archc.passes.workload import Workload
from archc.specs_index import shipped
from tests.oracles.small import BATCH, PAIRS, PLAIN, other_inputs, program, settings

CASES = [(name, time) for name in shipped() for time in (7, 70)] + [(name, 150) for name in PAIRS]


@cache
def model(name: str) -> nn.Module:
    return archc.load(f"{name}:tiny", backend="torch", **settings(name))


def run(name: str, time: int) -> Tensor:
    """The sum of everything that the model gives."""
    tokens = torch.arange(BATCH * time).reshape(BATCH, time) % 97
    outputs = model(name)(tokens, *[tokens % 2] * other_inputs(name))
    return sum((x.sum() for x in (outputs if isinstance(outputs, tuple) else (outputs,))), torch.zeros(()))


@pytest.mark.parametrize(("name", "time"), CASES)
def test_what_runs_is_what_the_counter_sees(name: str, time: int) -> None:
    # Attention as plain products: the counter has no formula for the fused kernel of the CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        total = run(name, time)
        forward = counter.get_total_flops()
        total.backward()
        train = counter.get_total_flops()
    found = executed(program(name), TorchKernels(), BATCH, time)
    assert (forward, train) == (found.forward, found.train)


@pytest.mark.parametrize("name", ["llama", "griffin", "mqa_transformer"])
def test_fused_attention_computes_the_same_pairs(name: str) -> None:
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def formula(q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        batch, heads, queries, dim = q
        return 2 * batch * heads * queries * k[2] * (dim + v[3])

    found = executed(program(name), TorchKernels(), BATCH, 150)
    with torch.no_grad(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        with FlopCounterMode(display=False, custom_mapping={fused: formula}) as counter:
            run(name, 150)
    assert counter.get_total_flops() == found.forward


@pytest.mark.parametrize("name", PLAIN)
def test_the_convention_is_what_runs_where_nothing_is_cut(name: str) -> None:
    # shorter than every window and every block, and no scan in matrix form
    time = 31
    convention = flops(program(name).graph, Workload(batch=BATCH, time=time, mode="train"))
    found = executed(program(name), TorchKernels(), BATCH, time)
    assert (convention.forward.matrix, convention.backward.matrix) == (found.forward, found.backward)
    assert found.again == 0
