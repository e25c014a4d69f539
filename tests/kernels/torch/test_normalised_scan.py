"""Scans of outer products with a normaliser, against the recurrences written out in double precision."""

import pytest
import torch
from kernels.chunked_gates import ChunkedGates
from kernels.normalised_scan import gated_normalised_scan, normalised_chunked_scan
from kernels.read_out import Read
from torch import Tensor

GROUPS, HEADS, KEYS, VALUES = 2, 3, 4, 5
POS = torch.tensor([[4, 5, 0, 0, *range(1, 40)], [*range(-2, 41)]])


def slow(log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, S: Tensor, z: Tensor, pos: Tensor) -> tuple[Tensor, ...]:
    """y, norm, S, z."""
    ys, norms = [], []
    for t in range(v.shape[1]):
        decay = torch.where(pos.expand(v.shape[:2])[:, t, None, None] == 0, 0, log_a[:, t].exp())[..., None]
        S = decay[..., None] * S + k[:, t, ..., None] * v[:, t, :, :, None]
        z = decay * z + k[:, t]
        ys.append(torch.einsum("bghk,bghkv->bghv", q[:, t].expand(z.shape), S))
        norms.append((q[:, t] * z).sum(-1))
    return torch.stack(ys, 1), torch.stack(norms, 1), S, z


def inputs(time: int, shared: bool) -> list[Tensor]:
    """log_a, k, v, q, S, z."""
    torch.manual_seed(time)
    heads = 1 if shared else HEADS
    shapes = [(2, time, GROUPS, HEADS), (2, time, GROUPS, heads, KEYS), (2, time, GROUPS, HEADS, VALUES)]
    shapes += [shapes[1], (2, GROUPS, HEADS, KEYS, VALUES), (2, GROUPS, HEADS, KEYS)]
    drawn = [torch.rand(shape, dtype=torch.float64) for shape in shapes]
    return [x.requires_grad_() for x in (-drawn[0], *drawn[1:])]


def mine(log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, S: Tensor, z: Tensor, pos: Tensor) -> tuple[Tensor, ...]:
    (y, norm), (last, last_z) = normalised_chunked_scan(log_a, k, v, q, pos, (S, z))
    assert last is not None
    assert last_z is not None
    return y, norm, last, last_z


def same(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], operands: list[Tensor]) -> None:
    weights = [torch.randn(x.shape, dtype=torch.float64) for x in wanted]
    gradients = [torch.autograd.grad(each, operands, weights) for each in (found, wanted)]
    for one, other in zip((*found, *gradients[0]), (*wanted, *gradients[1]), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("time", [1, 2, 21, 43])
@pytest.mark.parametrize("shared", [False, True])
def test_both_read_outs_and_all_gradients(time: int, shared: bool) -> None:
    operands, pos = inputs(time, shared), POS[:, :time]
    same(mine(*operands, pos), slow(*operands, pos), operands)


def test_whole_documents_start_from_nothing() -> None:
    operands, pos = inputs(19, True)[:4], torch.arange(19)
    zeros = [torch.zeros_like(x) for x in inputs(19, True)[4:]]
    (y, norm), states = normalised_chunked_scan(*operands, pos)
    assert states == (None, None)
    same((y, norm), slow(*operands, *zeros, pos)[:2], operands)


def test_tokens_one_by_one_are_the_whole_and_write_their_states_in_place() -> None:
    operands = [x.detach() for x in inputs(9, True)]
    states, read = (operands[4].clone(), operands[5].clone()), []
    for t in range(9):
        both, after = normalised_chunked_scan(*(x[:, t : t + 1] for x in operands[:4]), POS[:, t : t + 1], states)
        assert [x.data_ptr() for x in after if x is not None] == [x.data_ptr() for x in states]
        read.append(both)
    wanted = slow(*operands, POS[:, :9])
    for one, other in zip((*map(torch.cat, zip(*read, strict=True), (1, 1)), *states), wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_a_normaliser_is_summed_in_single_precision() -> None:
    """Of 2,000 keys of one each, the sums of which bfloat16 would stop to see at 256."""
    one = torch.ones(1, 2_000, 1, 1, 1, dtype=torch.bfloat16)
    pos, zeros = torch.arange(2_000)[None], (torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    (y, norm), (_, z) = normalised_chunked_scan(one[..., 0].float() * 0, one, one, one, pos, zeros)
    assert (y.dtype, norm.dtype) == (torch.bfloat16, torch.bfloat16)
    assert z is not None
    assert z.item() == 2_000
    torch.testing.assert_close(norm.flatten().float(), torch.arange(1.0, 2_001), rtol=4e-3, atol=0)


def scaled(x: Tensor, a: Tensor, w: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    return -a, x * w


def divided(y: Tensor, x: Tensor, a: Tensor, norm: Tensor, w: Tensor) -> Tensor:
    return y / (norm + 1e-6) + x * w


GATES = ChunkedGates(scaled, (True, False), (False,), read=Read(divided), normalised=True)


@pytest.mark.parametrize("time", [1, 21])
def test_equations_behind_the_scan_take_the_normaliser(time: int) -> None:
    log_a, k, v, q, S, z = (x.detach() for x in inputs(time, True))
    w = torch.rand(GROUPS, HEADS, 1, dtype=torch.float64)
    operands = [x.requires_grad_() for x in (log_a, k, v, q, S, z, w)]
    pos = POS[:, :time]
    out, states = gated_normalised_scan(GATES, (v, -log_a[..., None]), (w,), k, q, pos, (S, z))
    y, norm, last, last_z = slow(log_a, k, v * w, q, S, z, pos)
    wanted = divided(y, v, log_a, norm[..., None], w), last, last_z
    same((out, *(x for x in states if x is not None)), wanted, operands)
