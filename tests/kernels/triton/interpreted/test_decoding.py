"""What a decoder launches for a token between two matrix products, and that it computes what the plain text does."""

import re
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from archc.specs_index import program
from tests.parity.in_process import _kernels, model_module

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


class Launches(TorchDispatchMode):
    """The operators of this project between one matrix product and the next."""

    def __init__(self) -> None:
        super().__init__()
        self.between: list[list[str]] = [[]]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, _, name = function._overloadpacket._qualified_op_name.partition("::")
        if name in PRODUCTS:
            self.between.append([])
        elif space == "archc" or name in ("cat", "constant_pad_nd"):
            self.between[-1].append(re.sub(r"_\d+$", "", name))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("hawk", {"causal_conv", "rg_lru_h_scan"}),
        ("falcon_mamba", {"causal_conv_silu", "mixer_h_selective_scan"}),
        ("mamba2", {"causal_conv_silu", "ssd_h_chunked_scan"}),
        ("gla", {"gated_linear_attention_s_chunked_key_scan"}),
    ],
)
def test_a_token_takes_one_launch_between_two_products(
    name: str, kernels: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    operators = _kernels("torch")["kernels.operators"]
    model = model_module(program(f"{name}:tiny"), "torch").Model().double()
    with torch.no_grad():
        monkeypatch.setattr(operators, "INTERPRETED", False)
        _, state = model.step(torch.tensor([[1, 2, 3], [4, 5, 6]]), model.init_state(2, 8, torch.float64))
        plain = model.step(torch.tensor([[7], [8]]), tree_map(torch.clone, state))
        monkeypatch.setattr(operators, "INTERPRETED", True)
        with Launches() as found:
            fused = model.step(torch.tensor([[7], [8]]), state)
    assert {each for gap in found.between for each in gap} == kernels
    assert max(map(len, found.between)) == 1
    tree_map(lambda one, other: torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9), fused, plain)
