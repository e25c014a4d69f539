"""The chunked scans against the recurrence written out in double precision."""

import pytest
import torch
from kernels.chunked_scan import chunked_key_scan, chunked_scan
from torch import Tensor

KERNELS = pytest.mark.parametrize("kernel", [chunked_scan, chunked_key_scan])


def slow(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, S: Tensor, before: bool = False
) -> tuple[Tensor, Tensor]:
    """log_a [B, T, G, H] or [B, T, G, H, K]."""
    decay = log_a.exp().reshape(*v.shape[:4], -1, 1)
    ys = []
    for t in range(v.shape[1]):
        kept = (pos.expand(v.shape[:2])[:, t] != 0).to(S.dtype).reshape(-1, 1, 1, 1, 1)
        S, old = kept * decay[:, t] * S + k[:, t, ..., None] * v[:, t, :, :, None], kept * S
        ys.append((q[:, t, ..., None] * (old if before else S)).sum(-2))
    return torch.stack(ys, 1), S


def inputs(kernel: object, time: int, shared: str = "", strength: float = 1.0) -> list[Tensor]:
    torch.manual_seed(time)
    rates = (4,) if kernel is chunked_key_scan else ()
    log_a = -strength * torch.rand(2, time, 2, 3, *rates, dtype=torch.float64)
    k = torch.randn(2, time, 2, 1 if "k" in shared else 3, 4, dtype=torch.float64)
    v = torch.randn(2, time, 2, 3, 5, dtype=torch.float64)
    q = torch.randn(2, time, 2, 1 if "q" in shared else 3, 4, dtype=torch.float64)
    return [x.requires_grad_() for x in (log_a, k, v, q)]


def packed(time: int) -> Tensor:
    row = torch.cat([torch.arange(4, 6), torch.arange(1), torch.arange(30), torch.arange(67), torch.arange(time)])[
        :time
    ]
    return torch.stack([row, torch.arange(time) - 2])


def state() -> Tensor:
    return torch.randn(2, 2, 3, 4, 5, dtype=torch.float64, requires_grad=True)


def assert_same(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...], **tolerance: float) -> None:
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@KERNELS
@pytest.mark.parametrize("time", [1, 2, 37, 64, 65, 150])
@pytest.mark.parametrize("shared", ["", "k", "q", "kq"])
@pytest.mark.parametrize("before", [False, True])
def test_values_gradients_restarts_and_states(kernel, time: int, shared: str, before: bool) -> None:
    operands, first = inputs(kernel, time, shared), state()
    mine = kernel(*operands, packed(time), first, before=before)
    theirs = slow(*operands, packed(time), first, before)
    weights = [torch.randn(x.shape, dtype=torch.float64) for x in theirs]
    wanted = (*operands, first)
    assert_same(mine, theirs)
    assert_same(torch.autograd.grad(mine, wanted, weights), torch.autograd.grad(theirs, wanted, weights))


@KERNELS
@pytest.mark.parametrize("time", [1, 100])
def test_without_a_state(kernel, time: int) -> None:
    operands, zeros = inputs(kernel, time), torch.zeros_like(state())
    for pos in (torch.arange(time), packed(time)):
        y, none = kernel(*operands, pos)
        assert none is None
        assert_same((y,), slow(*operands, pos, zeros)[:1])
    mine = kernel(*operands, torch.arange(time), torch.full_like(zeros, 1e9))
    assert_same(mine, slow(*operands, torch.arange(time), zeros))


@KERNELS
@pytest.mark.parametrize("strength", [1e-4, 0.1, 5.0, 20.0, 200.0])
def test_weak_and_strong_decays_in_single_precision(kernel, strength: float) -> None:
    operands = [x.detach().float().requires_grad_() for x in inputs(kernel, 150, strength=strength)]
    wide = [x.detach().double().requires_grad_() for x in operands]
    before = state().detach()
    mine = kernel(*operands, packed(150), before.float())
    theirs = slow(*wide, packed(150), before)
    weights = [torch.randn(x.shape) for x in theirs]
    assert_same([x.double() for x in mine], theirs, rtol=1e-5, atol=1e-4 if strength < 1 else 1e-5)
    grads = torch.autograd.grad(mine, operands, weights)
    slow_grads = torch.autograd.grad(theirs, wide, [w.double() for w in weights])
    for one, other in zip(grads, slow_grads, strict=True):
        assert float((one.double() - other).norm() / other.norm()) < 1e-5


@KERNELS
def test_a_decay_of_zero_forgets(kernel) -> None:
    operands = inputs(kernel, 80)
    log_a = operands[0].detach().clone()
    log_a[:, 50] = -torch.inf
    mine = kernel(log_a, *operands[1:], torch.arange(80))[0]
    alone = kernel(log_a[:, 50:], *(x[:, 50:] for x in operands[1:]), torch.arange(30))[0]
    assert_same((mine[:, 50:],), (alone,))


@KERNELS
@pytest.mark.parametrize("cuts", [[1, 1, 1, 60, 3, 54], [119, 1], [17, 103]])
@pytest.mark.parametrize("before", [False, True])
def test_pieces_with_a_state_are_the_whole(kernel, cuts: list[int], before: bool) -> None:
    operands, pos = inputs(kernel, 120), packed(120)
    last, pieces = torch.zeros_like(state()), []
    for parts in zip(*(x.split(cuts, 1) for x in (*operands, pos)), strict=True):
        y, last = kernel(*parts, last, before=before)
        pieces.append(y)
    assert_same((torch.cat(pieces, 1), last), slow(*operands, pos, torch.zeros_like(state()), before))


@KERNELS
def test_half_precision_inputs_are_summed_in_single_precision(kernel) -> None:
    operands = [x.detach().bfloat16() for x in inputs(kernel, 200, "kq", strength=0.1)]
    pos, zeros = torch.arange(200).expand(2, 200), torch.zeros(2, 2, 3, 4, 5)
    y, last = kernel(*operands, pos, zeros)
    expected, slow_last = slow(*(x.double() for x in operands), pos, zeros.double())
    assert y.dtype is torch.bfloat16
    assert last.dtype is torch.float32
    assert_same((last.double(), y.double()), (slow_last, expected), rtol=4e-3, atol=1e-4)
    assert_same((last.double(),), (slow_last,), rtol=1e-5, atol=1e-5)
