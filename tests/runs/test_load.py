"""Models loaded into this process: side by side, drawn from a seed, found again by pickle."""

from __future__ import annotations

import inspect
import pickle
import sys
from typing import Literal

import numpy as np
import pytest
import torch

import archc
from archc.diagnostics import ArchError

SPEC = """
model small(width = 16, vocab = 11) {
    x = E[vocab width](tokens)
    x = x + scan(decay = sigmoid(x @ W_a[width]), input = tanh(x)) * s[width]
    logits = x @ U[width -> vocab]
}
"""


def test_a_loaded_model_maps_tokens_to_logits() -> None:
    model = archc.load("griffin:tiny", backend="torch")
    assert model(torch.randint(0, 256, (2, 5))).shape == (2, 5, 256)
    assert sum(p.numel() for p in model.parameters()) == archc.report("griffin:tiny").params.total


@pytest.mark.parametrize("backend", ["torch", "flax"])
def test_an_input_that_is_not_given_is_zero(backend: Literal["torch", "flax"]) -> None:
    body = "x = E[vocab width](tokens) + K[kinds = 2 width](kind)\n logits = x @ U[width -> vocab]"
    model = archc.load(f"model two(width = 4, vocab = 5) {{\n input kind\n {body}\n}}", backend=backend)
    tokens = np.arange(6).reshape(2, 3) % 5
    alone, zeros, ones = (
        np.asarray((model(*map(torch.tensor, given)) if backend == "torch" else model(*given)).tolist())
        for given in ((tokens,), (tokens, 0 * tokens), (tokens, 0 * tokens + 1))
    )
    np.testing.assert_array_equal(alone, zeros)
    assert np.abs(alone - ones).min() > 0


def test_several_models_live_side_by_side_under_names_of_their_own() -> None:
    modules = {"model", "kernels", "kernels.scan"}
    before = {name: sys.modules.get(name) for name in modules}
    griffin, mamba, small = (archc.load(spec) for spec in ("griffin:tiny", "mamba:tiny", SPEC))
    assert {name: sys.modules.get(name) for name in modules} == before
    assert len({type(model).__module__ for model in (griffin, mamba, small)}) == 3
    tokens = torch.randint(0, 11, (1, 4))
    assert [model(tokens).shape[-1] for model in (griffin, mamba, small)] == [256, 256, 11]


def test_pickle_and_inspect_find_a_loaded_class() -> None:
    model = archc.load(SPEC)
    again = pickle.loads(pickle.dumps(model))
    tokens = torch.randint(0, 11, (1, 4))
    assert torch.equal(model(tokens), again(tokens))
    assert inspect.getsource(type(model)).startswith("class Small(nn.Module)")


def test_a_seed_decides_the_weights_and_nothing_else() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, same, other = (archc.load(SPEC, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["E"], other["E"])


def test_parameters_are_set_by_name() -> None:
    assert archc.load(SPEC, width=8).state_dict()["E"].shape == (11, 8)
    with pytest.raises(ArchError, match=r"no parameter 'wdith'; did you mean 'width'\?"):
        archc.load(SPEC, wdith=8)


def test_both_backends_live_side_by_side() -> None:
    jax_model, torch_model = archc.load(SPEC, backend="flax"), archc.load(SPEC, backend="torch")
    assert jax_model(np.zeros((2, 5), np.int32)).shape == (2, 5, 11)
    assert torch_model(torch.zeros((2, 5), dtype=torch.int64)).shape == (2, 5, 11)
