"""Scans with a decay per key and the gates of shipped specs around them in Triton's interpreter, in double precision.

What they are held against is the recurrence written out, of the same equations on whole tensors.
"""

import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from archc import api
from archc.loading import import_project

SIZES = {"value": 5, "key": 3, "head": 1}
GROUPS, HEADS = 1, 2
CASES = Path(__file__).parents[3] / "parity" / "cases"
OF_WEIGHTS = "keys_that_only_weights_have.arch"


@cache
def project(spec: str) -> dict[str, ModuleType]:
    found = CASES / spec if spec.endswith(".arch") else f"{spec}:tiny"
    return import_project(api.compile(str(found), backend="torch"), "model")


@pytest.fixture
def parts(spec: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The gates of a spec, and the function that runs them."""
    model = project(spec)["model"]
    modules = sys.modules
    stem = model.__name__.removesuffix("_model")
    monkeypatch.setattr(modules[f"{stem}_kernels.operators"], "INTERPRETED", True)
    gates = next(
        g for g in vars(modules[f"{stem}_gates"]).values() if type(g).__name__ == "ChunkedKeyGates" and g.device
    )
    return gates, modules[f"{stem}_kernels.gated_key_scan"].gated_chunked_key_scan


def inputs(gates: Any, time: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """x, w and a state. Weights between nothing and a half are bounds of decays, and exponents of others."""
    torch.manual_seed(time)
    x = [torch.randn(2, time, GROUPS, HEADS, SIZES[of]) for of in gates.x_of]
    w = [torch.rand(GROUPS, HEADS, SIZES[of]) / 2 for of in gates.w_of]
    state = torch.randn(2, GROUPS, HEADS, SIZES["key"], SIZES["value"])
    x, w, (state,) = ([z.double().requires_grad_() for z in each] for each in (x, w, [state]))
    return x, w, state


def slow(gates: Any, x: list[Tensor], w: list[Tensor], pos: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    starts = (pos == 0).expand(x[0].shape[:2])
    log_a, k, v, q, *bonus = gates.plain(*x, *w, starts[..., None, None, None])
    log_a, k, q, *bonus = (z.expand(*x[0].shape[:4], S.shape[3]) for z in (log_a, k, q, *bonus))
    ys = []
    for t in range(x[0].shape[1]):
        S = torch.where(starts[:, t, None, None, None, None], 0.0, S)
        after = log_a[:, t, ..., None].exp() * S + k[:, t, ..., None] * v[:, t, ..., None, :]
        read = S if gates.before else after
        for b in bonus:
            read = read + b[:, t, ..., None] * v[:, t, ..., None, :]
        ys.append((q[:, t, ..., None] * read).sum(-2))
        S = after
    return torch.stack(ys, 1), S


def packed(time: int) -> Tensor:
    """A document that goes on, one of a single token; and padding on the left."""
    row = torch.cat([torch.arange(4, 6), torch.arange(1), torch.arange(time)])
    return torch.stack([row[:time], torch.arange(time) - 2])


def same(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def gradients(outputs: tuple[Tensor, ...], wanted: list[Tensor]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64) for y in outputs]
    return torch.autograd.grad(outputs, wanted, weights)


@pytest.mark.parametrize(
    ("spec", "time"), [("gla", 1), ("gla", 3), ("hgrn2", 5), ("rwkv6", 1), ("rwkv6", 19), (OF_WEIGHTS, 5)]
)
def test_values_and_all_gradients_are_exact_with_restarts_and_states(parts: tuple[Any, Any], time: int) -> None:
    gates, scan = parts
    x, w, state = inputs(gates, time)
    wanted = [*x, *w, state]
    mine, theirs = scan(gates, x, w, packed(time), state), slow(gates, x, w, packed(time), state)
    same((*mine, *gradients(mine, wanted)), (*theirs, *gradients(theirs, wanted)))


@pytest.mark.parametrize("spec", ["rwkv6"])
def test_a_whole_document_and_no_state(parts: tuple[Any, Any]) -> None:
    gates, scan = parts
    x, w, state = inputs(gates, 4)
    y, none = scan(gates, x, w, torch.arange(4))
    right = slow(gates, x, w, torch.arange(4), torch.zeros_like(state))[:1]
    assert none is None
    same((y, *gradients((y,), [*x, *w])), (*right, *gradients(right, [*x, *w])))


@pytest.mark.parametrize("spec", ["gla", "hgrn2", "rwkv6"])
def test_a_token_is_one_launch(parts: tuple[Any, Any]) -> None:
    """A row that goes on and one that starts."""
    gates, scan = parts
    x, w, state = inputs(gates, 1)
    pos = torch.tensor([[3], [0]])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        found = scan(gates, x, w, pos, state)
    same(found, slow(gates, x, w, pos, state))
    assert counter.get_flop_counts()["Global"].keys() == {gates.fused._opoverload.overloadpacket}
    assert counter.get_total_flops() == 4 * state.numel()


@pytest.mark.parametrize("spec", ["rwkv6"])
def test_the_operator_holds_what_torch_asks_of_it(parts: tuple[Any, Any]) -> None:
    gates, _ = parts
    x, w, state = inputs(gates, 2)
    flat = [[z.detach().flatten(at, at + 1).requires_grad_() for z in each] for at, each in ((2, x), (0, w))]
    arguments = (*flat, [], [], packed(2), state.detach().flatten(1, 2).requires_grad_(), True)
    torch.library.opcheck(
        gates.fused, arguments, test_utils=("test_schema", "test_autograd_registration", "test_faketensor")
    )
