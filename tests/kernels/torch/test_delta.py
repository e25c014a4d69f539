"""The delta rule in chunks against the recurrence written out in double precision."""

import pytest
import torch
from kernels.delta import delta_scan
from torch import Tensor

DECAYED = pytest.mark.parametrize("decayed", [True, False])


def slow(
    log_a: Tensor, k: Tensor, v: Tensor, r: Tensor, q: Tensor, pos: Tensor, S: Tensor, decayed: bool = True
) -> tuple[Tensor, Tensor]:
    ys = []
    for t in range(v.shape[1]):
        S = torch.where((pos.expand(v.shape[:2])[:, t] != 0).reshape(-1, 1, 1, 1), S, 0)
        after = log_a[:, t].exp()[..., None, None] * S
        held = torch.einsum("bhk,bhkv->bhv", r[:, t], after if decayed else S)
        S = after + torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t] - held)
        ys.append(torch.einsum("bhk,bhkv->bhv", q[:, t], S))
    return torch.stack(ys, 1), S


def inputs(time: int, strength: float = 1.0) -> list[Tensor]:
    """Keys of length one at most, as the rule wants them: it forgets what it holds at a key, and does not overshoot."""
    generator = torch.Generator().manual_seed(time)
    shapes = [(2, time, 3), (2, time, 3, 4), (2, time, 3, 5), (2, time, 3, 4), (2, time, 3, 4)]
    log_a, k, v, r, q = (torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes)
    k, r = (x / x.norm(dim=-1, keepdim=True) for x in (k, r))
    return [x.requires_grad_() for x in (-strength * log_a.abs(), k, v, (0.7 * k + 0.3 * r).detach(), q)]


def packed(time: int) -> Tensor:
    row = torch.cat([torch.arange(4, 6), torch.arange(1), torch.arange(30), torch.arange(67), torch.arange(time)])
    return torch.stack([row[:time], torch.arange(time) + 9])


def state() -> Tensor:
    return torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)


@DECAYED
@pytest.mark.parametrize("time", [1, 2, 37, 64, 65, 150])
def test_values_gradients_restarts_and_states(time: int, decayed: bool) -> None:
    operands, first = inputs(time), state()
    mine = delta_scan(*operands, packed(time), first, decayed=decayed)
    theirs = slow(*operands, packed(time), first, decayed)
    weights = [torch.randn(x.shape, dtype=torch.float64) for x in theirs]
    torch.testing.assert_close(mine, theirs)
    wanted = (*operands, first)
    torch.testing.assert_close(torch.autograd.grad(mine, wanted, weights), torch.autograd.grad(theirs, wanted, weights))


@pytest.mark.parametrize("time", [1, 100])
def test_whole_documents_start_from_nothing(time: int) -> None:
    operands, zeros = inputs(time), torch.zeros_like(state())
    y, none = delta_scan(*operands, torch.arange(time))
    assert none is None
    theirs = slow(*operands, torch.arange(time), zeros)
    torch.testing.assert_close(y, theirs[0])
    torch.testing.assert_close(delta_scan(*operands, torch.arange(time), torch.full_like(zeros, 1e9)), theirs)


@DECAYED
@pytest.mark.parametrize("strength", [0.0, 1e-3, 5.0, 200.0, float("inf")])
def test_decays_of_any_strength_in_single_precision(strength: float, decayed: bool) -> None:
    operands = inputs(150, min(strength, 200.0))
    if strength == float("inf"):
        operands[0] = operands[0].detach().clone()
        operands[0][:, 50] = -torch.inf
    wide = [x.detach().float().double() for x in operands]
    first = state().detach().float()
    mine = delta_scan(*(x.detach().float() for x in operands), packed(150), first, decayed=decayed)
    theirs = slow(*wide, packed(150), first.double(), decayed)
    torch.testing.assert_close(tuple(x.double() for x in mine), theirs, rtol=1e-4, atol=1e-4)


@DECAYED
@pytest.mark.parametrize("cuts", [[1, 1, 1, 60, 3, 54], [119, 1], [17, 103]])
def test_pieces_with_a_state_are_the_whole(cuts: list[int], decayed: bool) -> None:
    operands, pos = [x.detach() for x in inputs(120)], packed(120)
    last: Tensor | None = torch.zeros_like(state())
    pieces = []
    for parts in zip(*(x.split(cuts, 1) for x in (*operands, pos)), strict=True):
        y, last = delta_scan(*parts, last, decayed=decayed)
        pieces.append(y)
    theirs = slow(*operands, pos, torch.zeros_like(state()), decayed)
    torch.testing.assert_close((torch.cat(pieces, 1), last), theirs)


def test_half_precision_inputs_are_summed_in_single_precision() -> None:
    operands = [x.detach().bfloat16() for x in inputs(200)]
    pos, zeros = torch.arange(200).expand(2, 200), torch.zeros(2, 3, 4, 5)
    y, last = delta_scan(*operands, pos, zeros)
    expected, slow_last = slow(*(x.double() for x in operands), pos, zeros.double())
    assert y.dtype is torch.bfloat16
    assert last is not None
    assert last.dtype is torch.float32
    torch.testing.assert_close(y.double(), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(last.double(), slow_last, rtol=1e-4, atol=1e-4)
