"""The fused selective scan in Triton's interpreter, against the recurrence written out in double precision."""

import kernels.operators
import pytest
import torch
from archc.backends.torch.executed import TorchKernels
from kernels.selective_gates import IDENTITY
from kernels.selective_scan import gated_selective_scan, selective_scan
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from tests.kernels.triton.mamba_gates import MAMBA

CHANNELS, STATES = 5, 3
HALVES = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def slow(dt: Tensor, A: Tensor, x: Tensor, B: Tensor, C: Tensor, pos: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    ys = []
    for t in range(x.shape[1]):
        kept = (pos.expand(x.shape[:2])[:, t] != 0).to(h.dtype)[:, None, None]
        h = kept * torch.exp(dt[:, t, :, None] * A) * h + x[:, t, :, None] * B[:, t, None]
        ys.append((h * C[:, t, None]).sum(-1))
    return torch.stack(ys, 1), h


def slow_mamba(
    u: Tensor, raw: Tensor, z: Tensor, bias: Tensor, D: Tensor, A: Tensor, B: Tensor, C: Tensor, pos: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    dt = torch.log1p(torch.exp(raw + bias))
    x = dt * u * (1 + (pos.expand(u.shape[:2]) == 0).to(u.dtype)[..., None])
    y, h = slow(dt, A, x, B, C, pos, h)
    return (y + D * u) * z * torch.sigmoid(z), h


def inputs(
    time: int, channels: int = CHANNELS, states: int = STATES, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """dt, A, x, B, C."""
    torch.manual_seed(time)
    dt = torch.rand(2, time, channels).to(dtype)
    A = -torch.rand(channels, states).to(torch.promote_types(dtype, torch.float32)) * 3
    x, B, C = (torch.randn(2, time, n).to(dtype) for n in (channels, states, states))
    return [z.requires_grad_() for z in (dt, A, x, B, C)]


def mamba_inputs(time: int) -> list[Tensor]:
    """u, raw, z, bias, D, A, B, C."""
    raw, A, u, B, C = (z.detach() for z in inputs(time))
    weights = torch.randn(2, CHANNELS, dtype=torch.float64)
    return [z.clone().requires_grad_() for z in (u, raw, torch.randn_like(u), *weights, A, B, C)]


def before(states: int = STATES, channels: int = CHANNELS) -> Tensor:
    return torch.randn(2, channels, states, dtype=torch.float64, requires_grad=True)


def packed(time: int) -> Tensor:
    """A document that goes on, one of a single token, one that ends inside a block; and padding on the left."""
    row = torch.cat([torch.arange(4, 6), torch.arange(1), torch.arange(6), torch.arange(23), torch.arange(time)])
    return torch.stack([row[:time], torch.arange(time) - 2])


def gradients(outputs: tuple[Tensor, Tensor], wanted: list[Tensor]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, wanted, weights)


def assert_same(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def in_groups(time: int, axes: tuple[int, ...], keys: tuple[int, ...], queries: tuple[int, ...]) -> list[Tensor]:
    """u, raw, z, bias, D, A, B, C of channels [*axes], with B [*keys] and C [*queries] of groups."""
    torch.manual_seed(time)
    shapes = (
        *[(2, time, *axes)] * 3,
        axes,
        axes,
        (*axes, STATES),
        (2, time, *keys, STATES),
        (2, time, *queries, STATES),
    )
    drawn = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    drawn[5] = -drawn[5].exp()
    return [z.requires_grad_() for z in drawn]


def slow_in_groups(operands: list[Tensor], axes: tuple[int, ...], pos: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence with a row of B and C for each channel, as a model of one channel each."""
    *tokens, bias, D, A, B, C = operands
    B, C = (z.reshape(*z.shape[:-1], *(1,) * (len(axes) + 3 - z.dim()), STATES) for z in (B, C))
    B, C = (z.expand(*z.shape[:2], *axes, STATES).flatten(2, -2) for z in (B, C))
    u, raw, z = (t.flatten(2) for t in tokens)
    dt = torch.log1p(torch.exp(raw + bias.flatten()))
    x = dt * u * (1 + (pos.expand(u.shape[:2]) == 0).to(u.dtype)[..., None])
    h, ys = h.reshape(2, -1, STATES), []
    for t in range(u.shape[1]):
        kept = (pos.expand(u.shape[:2])[:, t] != 0).to(h.dtype)[:, None, None]
        h = kept * torch.exp(dt[:, t, :, None] * A.reshape(-1, STATES)) * h + x[:, t, :, None] * B[:, t]
        ys.append((h * C[:, t]).sum(-1))
    y = (torch.stack(ys, 1) + D.flatten() * u) * z * torch.sigmoid(z)
    return y.reshape(tokens[0].shape), h.reshape(2, *axes, STATES)


def distance(mine: Tensor, theirs: Tensor) -> float:
    return float((mine.detach().double() - theirs.detach()).norm() / theirs.detach().norm())


@pytest.mark.parametrize("time", [1, 3, 37])
def test_values_and_gradients_are_exact_with_restarts_and_states(time: int) -> None:
    operands, state = inputs(time), before()
    mine = selective_scan(*operands, packed(time), state)
    theirs = slow(*operands, packed(time), state)
    assert_same(mine, theirs)
    assert_same(gradients(mine, [*operands, state]), gradients(theirs, [*operands, state]))


@pytest.mark.parametrize("time", [1, 35])
def test_gates_and_read_out_are_part_of_the_kernel(time: int) -> None:
    operands, state, pos = mamba_inputs(time), before(), packed(time)
    x, w, rest = operands[:3], operands[3:5], operands[5:]
    mine = gated_selective_scan(MAMBA, x, w, *rest, pos, state)
    theirs = slow_mamba(*operands, pos, state)
    assert_same(mine, theirs)
    assert_same(gradients(mine, [*operands, state]), gradients(theirs, [*operands, state]))


GROUPED = {
    "one token": (1, (2, 2, 5), (2, 1), (2, 2)),
    "several groups a program, keys shared by inner ones": (5, (1, 3, 2, 5), (1, 1, 2), (1, 3, 2)),
    "several programs a group, queries shared by outer ones": (3, (1, 2, 33), (1, 2), (1, 1)),
    "keys shared in two places": (3, (2, 2, 2, 3), (1, 2, 1), (2, 2, 2)),
    "two axes within a group": (3, (3, 2, 2), (3,), (1,)),
    "channels of two axes without groups": (3, (2, 3), (), ()),
}


@pytest.mark.parametrize(("time", "axes", "keys", "queries"), GROUPED.values(), ids=GROUPED)
def test_groups_of_channels_have_keys_and_queries_of_their_own(
    time: int, axes: tuple[int, ...], keys: tuple[int, ...], queries: tuple[int, ...]
) -> None:
    operands, pos = in_groups(time, axes, keys, queries), packed(time)
    state = torch.randn(2, *axes, STATES, dtype=torch.float64, requires_grad=True)
    mine = gated_selective_scan(MAMBA, operands[:3], operands[3:5], *operands[5:], pos, state)
    theirs = slow_in_groups(operands, axes, pos, state)
    assert_same(mine, theirs)
    assert_same(gradients(mine, [*operands, state]), gradients(theirs, [*operands, state]))


def test_gates_without_the_kernel_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    operands, state = mamba_inputs(9), before()
    monkeypatch.setattr(kernels.operators, "INTERPRETED", False)
    for pos in (packed(9), torch.arange(9)):
        mine = gated_selective_scan(MAMBA, operands[:3], operands[3:5], *operands[5:], pos, state)
        assert_same(mine, slow_mamba(*operands, pos, state if pos.dim() == 2 else torch.zeros_like(state)))


@pytest.mark.parametrize("channels", [33, 40])
def test_channels_that_do_not_fill_programs(channels: int) -> None:
    operands, zeros = inputs(6, channels, 2), torch.zeros(2, channels, 2, dtype=torch.float64)
    mine, theirs = (scan(*operands, packed(6), zeros) for scan in (selective_scan, slow))
    assert_same(mine, theirs)
    assert_same(gradients(mine, operands), gradients(theirs, operands))


def test_a_whole_document_does_not_read_the_state_but_leaves_one() -> None:
    operands, pos, zeros = inputs(10), torch.arange(10), torch.zeros(2, CHANNELS, STATES, dtype=torch.float64)
    theirs = slow(*operands, pos, zeros)
    assert_same(selective_scan(*operands, pos, zeros + 1e9), theirs)
    y, none = selective_scan(*operands, pos)
    assert none is None
    assert_same((y,), theirs[:1])
    u, raw, z, bias, D, *rest = mamba_inputs(10)
    mine = gated_selective_scan(MAMBA, (u, raw, z), (bias, D), *rest, pos, zeros)
    assert_same(mine, slow_mamba(u, raw, z, bias, D, *rest, pos, zeros))


@pytest.mark.parametrize("cuts", [[1, 1, 20, 12], [32, 2]])
def test_pieces_with_a_state_are_the_whole(cuts: list[int]) -> None:
    dt, A, x, B, C = (z.detach() for z in inputs(34))
    pos, state, pieces = packed(34), torch.zeros(2, CHANNELS, STATES, dtype=torch.float64), []
    for *parts, places in zip(*(z.split(cuts, 1) for z in (dt, x, B, C, pos)), strict=True):
        y, state = selective_scan(parts[0], A, *parts[1:], places, state)
        pieces.append(y)
    whole = slow(dt, A, x, B, C, pos, torch.zeros_like(state))
    assert_same((torch.cat(pieces, 1), state), whole)


@pytest.mark.parametrize("dtype", HALVES)
def test_sums_are_in_single_precision_whatever_comes_in(dtype: torch.dtype) -> None:
    operands, state = inputs(13, dtype=dtype), before().detach().float().requires_grad_()
    wide = [z.detach().double().requires_grad_() for z in (*operands, state)]
    y, last = selective_scan(*operands, packed(13), state)
    assert (y.dtype, last.dtype) == (dtype, torch.float32)
    theirs = slow(*wide[:-1], packed(13), wide[-1])
    mine = (y, last, *gradients((y, last), [*operands, state]))
    expected = (*theirs, *gradients((theirs[0], theirs[1]), wide))
    for one, other in zip(mine, expected, strict=True):
        tolerance = HALVES[one.dtype] if one.dtype is not torch.float32 else 2e-6 if dtype is torch.float32 else 5e-3
        assert distance(one, other) < tolerance
    assert distance(last, theirs[1]) < 1e-6


def test_the_counter_sees_what_the_report_says() -> None:
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        y, _ = selective_scan(*inputs(7), torch.arange(7))
        forward = counter.get_total_flops()
        y.sum().backward()
        total = counter.get_total_flops()
    said = TorchKernels().selective(7, CHANNELS, STATES) * 2
    assert (forward, total) == (said.forward, said.train)


def test_the_operators_hold_what_torch_asks_of_them() -> None:
    dt, A, x, B, C = inputs(4)
    torch.library.opcheck(IDENTITY.fused, ([x, dt], [], [], [A, B, C], packed(4), before(), True))
