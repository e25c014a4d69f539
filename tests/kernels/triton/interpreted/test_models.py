"""Generated models train and decode through the kernels as they do through whole tensors, from the same weights."""

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from archc import api
from archc.loading import import_project

VOCAB, TIME, STEPS, PROMPT = 32, 14, 2, 6
SINGLE = 1e-5  # relative: what single precision and another order of sums explain
POS = torch.stack([torch.cat([torch.arange(n) for n in lengths]) for lengths in ((5, TIME - 5), (1, 4, TIME - 5))])


@dataclass(frozen=True)
class Case:
    """A spec, its size here, the kernels of its sequences and those of its single tokens."""

    settings: dict[str, int]
    sequence: frozenset[str]
    token: frozenset[str]


GRIFFIN = {"width": 16, "depth": 3, "rnn": 16, "heads": 2, "gates": 2, "window": 8}
DCFORMER = {"width": 16, "depth": 2, "heads": 2, "hidden": 16, "window": 8}
CASES = {
    "griffin": Case(GRIFFIN, frozenset({"rg_lru_h_scan", "causal_conv"}), frozenset({"rg_lru_h_scan", "causal_conv"})),
    "mamba": Case(
        {"width": 16, "depth": 2, "state": 2},
        frozenset({"selective_ssm_h_selective_scan", "causal_conv_silu"}),
        frozenset({"selective_ssm_h_selective_scan", "causal_conv_silu"}),
    ),
    "mamba1_in_llama": Case(
        {"width": 16, "depth": 2, "heads": 4, "kv": 2, "state": 2, "hidden": 16, "replaced": 1},
        frozenset({"selective_attention_h_selective_scan", "causal_conv"}),
        frozenset({"selective_attention_h_selective_scan", "causal_conv"}),
    ),
    "mamba2": Case(
        {"width": 16, "depth": 2, "head": 16, "state": 8},
        frozenset({"ssd_h_chunked_scan", "causal_conv_silu"}),
        frozenset({"ssd_h_chunked_scan", "causal_conv_silu"}),
    ),
    "gla": Case(
        {"width": 16, "depth": 1, "heads": 2, "key": 4, "value": 8},
        frozenset({"gated_linear_attention_s_chunked_key_scan"}),
        frozenset({"gated_linear_attention_s_chunked_key_scan"}),
    ),
    "rwkv6": Case(
        {"width": 16, "depth": 1, "heads": 2, "mix_rank": 4, "decay_rank": 4},
        frozenset({"time_mix_s_chunked_key_scan"}),
        frozenset({"time_mix_s_chunked_key_scan"}),
    ),
    "dcformer": Case(DCFORMER, frozenset({"dc_attention_y_attention"}), frozenset({"dc_attention_y_attention_token"})),
}


class Names(TorchDispatchMode):
    """Which operators of archc ran, without the number of a name that was taken."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "archc":
            self.found.add(func._opname.rstrip("_0123456789"))
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module", params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def project(name: str) -> ModuleType:
    """The generated model.py."""
    artifacts = api.compile(name, backend="torch", settings={**CASES[name].settings, "vocab": VOCAB})
    return import_project(artifacts, "model")["model"]


@pytest.fixture(scope="module")
def start(project: ModuleType) -> Any:
    """The model before training; on whole tensors."""
    torch.manual_seed(3)
    return project.Model()


@contextmanager
def interpreted(project: ModuleType) -> Iterator[Names]:
    """Inside, tensors go to the kernels of the project; no other copy of its modules can be found by its plain name."""
    operators: Any = sys.modules[f"{project.__name__.removesuffix('_model')}_kernels.operators"]
    with pytest.MonkeyPatch.context() as patch, Names() as names:
        for name in [name for name in sys.modules if name.partition(".")[0] == "kernels"]:
            patch.delitem(sys.modules, name)
        patch.setattr(operators, "INTERPRETED", True)
        yield names


def draw() -> Tensor:
    return torch.randint(VOCAB, POS.shape, generator=torch.Generator().manual_seed(4))


def train(model: Any) -> list[Tensor]:
    """The losses of a few steps on packed documents, each token predicting the next of its document."""
    tokens = draw()
    targets = tokens.roll(-1, 1).masked_fill(POS.roll(-1, 1) == 0, -100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    losses = []
    for _ in range(STEPS):
        loss = cross_entropy(model(tokens, POS).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def test_training_has_the_losses_and_weights_of_whole_tensors(name: str, project: ModuleType, start: Any) -> None:
    plain, fused = copy.deepcopy(start), copy.deepcopy(start)
    wanted = train(plain)
    assert wanted[-1] < wanted[0] - 0.05
    with interpreted(project) as names:
        losses = train(fused)
    kernels = CASES[name].sequence
    assert names.found == kernels | {f"{each}_backward" for each in kernels}
    torch.testing.assert_close(losses, wanted, rtol=SINGLE, atol=0)
    for (weight, found), right in zip(fused.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, right, rtol=SINGLE, atol=SINGLE, msg=lambda m, w=weight: f"{w}: {m}")


@torch.no_grad()
def test_tokens_one_by_one_are_the_whole_sequence(name: str, project: ModuleType, start: Any) -> None:
    """A prompt at once, then single tokens."""
    tokens = draw()
    state, parts = start.init_state(*tokens.shape), []
    prompt, *singles = tokens.split([PROMPT] + [1] * (TIME - PROMPT), 1)
    for pieces, kernels in (([prompt], CASES[name].sequence), (singles, CASES[name].token)):
        with interpreted(project) as names:
            for piece in pieces:
                logits, state = start.step(piece, state)
                parts.append(logits)
        assert names.found == kernels
    torch.testing.assert_close(torch.cat(parts, 1), start(tokens), rtol=SINGLE, atol=SINGLE)
