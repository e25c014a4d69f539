"""The selective scan against the recurrence written out in double precision."""

import kernels.selective_scan
import pytest
import torch
from kernels.selective_scan import selective_scan
from torch import Tensor


def slow(dt: Tensor, A: Tensor, x: Tensor, B: Tensor, C: Tensor, pos: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    ys = []
    for t in range(x.shape[1]):
        kept = (pos.expand(x.shape[:2])[:, t] != 0).to(h.dtype)[:, None, None]
        h = kept * torch.exp(dt[:, t, :, None] * A) * h + x[:, t, :, None] * B[:, t, None]
        ys.append((h * C[:, t, None]).sum(-1))
    return torch.stack(ys, 1), h


def inputs(time: int) -> list[Tensor]:
    torch.manual_seed(time)
    dt = torch.rand(2, time, 5, dtype=torch.float64) * 2
    A = -torch.rand(5, 3, dtype=torch.float64) * 3
    x, B, C = (torch.randn(2, time, n, dtype=torch.float64) for n in (5, 3, 3))
    return [z.requires_grad_() for z in (dt, A, x, B, C)]


def packed(time: int) -> Tensor:
    row = torch.cat([torch.arange(4, 6), torch.arange(1), torch.arange(6), torch.arange(time)])[:time]
    return torch.stack([row, torch.arange(time) - 2])


def assert_same(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.fixture(params=["kept", "in one block", "in blocks"])
def _held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All states are kept; or computed again, in one block or in several."""
    if request.param != "kept":
        monkeypatch.setattr(kernels.selective_scan, "HELD", 1)
        monkeypatch.setattr(kernels.selective_scan, "LEAST", 64 if request.param == "in one block" else 8)


@pytest.mark.usefixtures("_held")
@pytest.mark.parametrize("time", [1, 2, 15, 16, 17, 43])
def test_values_gradients_restarts_and_states(time: int) -> None:
    operands, state = inputs(time), torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    y, last = selective_scan(*operands, packed(time), state)
    theirs = slow(*operands, packed(time), state)
    weights = [torch.randn(z.shape, dtype=torch.float64) for z in theirs]
    wanted = (*operands, state)
    assert_same((y, last), theirs)
    assert_same(torch.autograd.grad((y, last), wanted, weights), torch.autograd.grad(theirs, wanted, weights))


@pytest.mark.parametrize("time", [1, 43])
def test_without_a_state(time: int) -> None:
    for pos in (torch.arange(time), packed(time)):
        operands, zeros = inputs(time), torch.zeros(2, 5, 3, dtype=torch.float64)
        y, none = selective_scan(*operands, pos)
        expected, _ = slow(*operands, pos, zeros)
        assert none is None
        assert_same((y,), (expected,))
        wanted = operands if time > 1 else operands[2:]
        assert_same(torch.autograd.grad(y.sum(), wanted), torch.autograd.grad(expected.sum(), wanted))
        if pos.dim() == 1:  # a whole document does not read the state, but leaves one
            y, last = selective_scan(*operands, pos, torch.full((2, 5, 3), 1e9).double())
            assert_same((y, last), slow(*operands, pos, zeros))


def slow_in_groups(
    dt: Tensor, A: Tensor, x: Tensor, B: Tensor, C: Tensor, pos: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """Every channel with the row of B and C that its group reads."""
    axes, states = x.shape[2:], A.shape[-1]
    B, C = (z.reshape(*z.shape[:-1], *[1] * (x.dim() + 1 - z.dim()), states) for z in (B, C))
    ys = []
    for t in range(x.shape[1]):
        kept = (pos.expand(x.shape[:2])[:, t] != 0).to(h.dtype).reshape(-1, *[1] * (len(axes) + 1))
        h = kept * torch.exp(dt[:, t, ..., None] * A) * h + x[:, t, ..., None] * B[:, t]
        ys.append((h * C[:, t]).sum(-1))
    return torch.stack(ys, 1), h


GROUPED = [  # axes of channels, of keys, of queries; of steps and rates
    ((2, 2, 3), (2, 1), (2, 2), (2, 2, 3), (2, 2, 3)),
    ((2, 2, 2, 3), (1, 2, 1), (2, 1, 2), (2, 2, 2, 3), (2, 2, 2, 3)),
    ((3, 2, 2), (1,), (3,), (3, 1, 1), (2,)),
    ((2, 3), (), (), (1, 3), (1, 1)),
]


@pytest.mark.usefixtures("_held")
@pytest.mark.parametrize(("axes", "keys", "queries", "steps", "rates"), GROUPED)
@pytest.mark.parametrize("time", [1, 13])
def test_groups_of_channels_have_keys_and_queries_of_their_own(
    time: int,
    axes: tuple[int, ...],
    keys: tuple[int, ...],
    queries: tuple[int, ...],
    steps: tuple[int, ...],
    rates: tuple[int, ...],
) -> None:
    torch.manual_seed(time)
    shapes = [(2, time, *steps), (*rates, 3), (2, time, *axes), (2, time, *keys, 3), (2, time, *queries, 3)]
    drawn = [torch.randn(shape, dtype=torch.float64) for shape in (*shapes, (2, *axes, 3))]
    drawn[:2] = [drawn[0].exp(), -drawn[1].exp()]
    wanted, pos = [z.requires_grad_() for z in drawn], packed(time)
    mine = selective_scan(*wanted[:-1], pos, wanted[-1])
    theirs = slow_in_groups(*wanted[:-1], pos, wanted[-1])
    assert_same(mine, theirs)  # type: ignore[arg-type]
    weights = [torch.randn(z.shape, dtype=torch.float64) for z in theirs]
    assert_same(torch.autograd.grad(mine, wanted, weights), torch.autograd.grad(theirs, wanted, weights))


def test_a_token_goes_on_from_the_state_of_a_sequence_with_groups() -> None:
    torch.manual_seed(0)
    dt, x = (torch.rand(2, 9, 2, 2, 3, dtype=torch.float64) for _ in range(2))
    A, B, C = (torch.randn(shape, dtype=torch.float64) for shape in [(2, 2, 3, 3), (2, 9, 2, 1, 3), (2, 9, 2, 2, 3)])
    pos, state, pieces = packed(9), torch.zeros(2, 2, 2, 3, 3, dtype=torch.float64), []
    for *parts, places in zip(*(z.split([6, 1, 1, 1], 1) for z in (dt, x, B, C, pos)), strict=True):
        y, state = selective_scan(parts[0], A, *parts[1:], places, state)
        pieces.append(y)
    whole = slow_in_groups(dt, A, x, B, C, pos, torch.zeros_like(state))
    assert_same((torch.cat(pieces, 1), state), whole)


@pytest.mark.usefixtures("_held")
def test_the_selective_scan_passes_gradcheck() -> None:
    operands, state = inputs(18), torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    call = lambda *z: selective_scan(*z[:-1], packed(18), z[-1])  # noqa: E731
    assert torch.autograd.gradcheck(call, (*operands, state), fast_mode=True)


@pytest.mark.parametrize("cuts", [[1, 1, 1, 20, 3, 14], [39, 1], [17, 23]])
def test_pieces_with_a_state_are_the_whole(cuts: list[int]) -> None:
    dt, A, x, B, C = inputs(40)
    pos, state, pieces = packed(40), torch.zeros(2, 5, 3, dtype=torch.float64), []
    for *parts, places in zip(*(z.split(cuts, 1) for z in (dt, x, B, C, pos)), strict=True):
        y, state = selective_scan(parts[0], A, *parts[1:], places, state)
        pieces.append(y)
    whole, last = slow(dt, A, x, B, C, pos, torch.zeros(2, 5, 3, dtype=torch.float64))
    assert_same((torch.cat(pieces, 1), state), (whole, last))


def test_half_precision_inputs_are_summed_in_single_precision() -> None:
    operands = [z.detach().bfloat16().requires_grad_() for z in inputs(200)]
    wide = [z.detach().double().requires_grad_() for z in operands]
    pos, zeros = torch.arange(200).expand(2, 200), torch.zeros(2, 5, 3)
    y, last = selective_scan(*operands, pos, zeros)
    expected, slow_last = slow(*wide, pos, zeros.double())
    assert last is not None
    assert last.dtype is torch.float32
    torch.testing.assert_close(last.double(), slow_last, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(y.double(), expected, rtol=4e-3, atol=1e-6)
    weight = torch.randn(y.shape).bfloat16()
    mine, theirs = torch.autograd.grad(y, operands, weight), torch.autograd.grad(expected, wide, weight.double())
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=8e-3, atol=1e-4)
