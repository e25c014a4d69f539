"""The scans against loops in double precision: values, gradients, restarts, states, dtypes."""

import pytest
import torch
from kernels.scan import maxscan, scan
from torch import Tensor


def slow_scan(a: Tensor, u: Tensor, pos: Tensor, state: Tensor | None = None) -> Tensor:
    h = torch.zeros_like(u[:, 0]) if state is None else state
    out = []
    for t in range(u.shape[1]):
        fresh = torch.as_tensor(pos.expand(u.shape[:2])[:, t] == 0).reshape(-1, *[1] * (u.dim() - 2))
        h = torch.where(fresh, 0, a.expand(u.shape)[:, t]) * h + u[:, t]
        out.append(h)
    return torch.stack(out, 1)


def slow_maxscan(f: Tensor, i: Tensor, pos: Tensor, state: Tensor | None = None) -> Tensor:
    m, out = state, []
    for t in range(i.shape[1]):
        fresh = (pos.expand(i.shape[:2])[:, t] == 0).reshape(-1, *[1] * (i.dim() - 2))
        m = i[:, t] if m is None else torch.where(fresh, i[:, t], torch.maximum(m + f[:, t], i[:, t]))
        out.append(m)
    return torch.stack(out, 1)


def packed(time: int) -> Tensor:
    """Two rows: documents that end here and there, and a left-padded one that goes on."""
    row = torch.cat([torch.arange(4, 4 + time // 3), torch.arange(1), torch.arange(time)])[:time]
    return torch.stack([row, torch.arange(time) - 2])


def gradients(outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, inputs, weights, allow_unused=True)


def assert_same(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...], **tolerance: float) -> None:
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("time", [1, 2, 15, 17, 18, 67])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_scan_is_the_loop_with_restarts_and_states(time: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    a = torch.rand(2, time, 3, 5, dtype=dtype).requires_grad_()
    u = torch.randn(2, time, 3, 5, dtype=dtype, requires_grad=True)
    state = torch.randn(2, 3, 5, dtype=dtype, requires_grad=True)
    pos = packed(time)
    h, last = scan(a, u, pos, state)
    slow = slow_scan(a, u, pos, state)
    assert_same((h, last), (slow, slow[:, -1]))
    assert_same(gradients((h, last), (a, u, state)), gradients((slow, slow[:, -1]), (a, u, state)))


@pytest.mark.parametrize("time", [1, 40])
@pytest.mark.parametrize("shape", [(), (5,), (3, 1), (1, 1, 3, 1), (2, 40, 3, 1), (40, 1, 5)])
def test_a_decay_that_lacks_axes_gets_its_gradient_summed(shape: tuple[int, ...], time: int) -> None:
    shape = tuple(time if size == 40 else size for size in shape)
    a = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    u = torch.randn(2, time, 3, 5, dtype=torch.float64, requires_grad=True)
    for pos in (torch.arange(time), packed(time)):
        h, none = scan(a, u, pos)
        slow = slow_scan(a, u, pos)
        assert none is None
        assert_same((h,), (slow,))
        if time > 1:
            assert_same(gradients((h,), (a, u)), gradients((slow,), (a, u)))


def test_the_scan_passes_gradcheck() -> None:
    a, u = (torch.rand(2, 18, 2, dtype=torch.complex128, requires_grad=True) for _ in range(2))
    state = torch.randn(2, 2, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, u, state: scan(a, u, packed(18), state), (a, u, state))


def test_a_number_may_be_the_decay() -> None:
    u = torch.randn(2, 9, 3, dtype=torch.float64)
    h, _ = scan(0.5, u, torch.arange(9))
    assert_same((h,), (slow_scan(torch.tensor(0.5, dtype=torch.float64), u, torch.arange(9)),))
    rotating, _ = scan(0.5j, u, torch.arange(9))
    assert rotating.dtype is torch.complex128
    torch.testing.assert_close(rotating[:, 2], u[:, 2] + 0.5j * u[:, 1] - 0.25 * u[:, 0])


def test_half_precision_inputs_are_summed_in_single_precision() -> None:
    u = torch.full((1, 4096, 2), 1.0, dtype=torch.bfloat16)
    state = torch.zeros(1, 2)
    h, last = scan(1.0, u, torch.arange(4096)[None], state)
    assert h.dtype is torch.bfloat16
    assert last is not None
    assert last.dtype is torch.float32
    assert last.tolist() == [[4096.0, 4096.0]]


@pytest.mark.parametrize("cuts", [[1, 1, 1, 20, 3, 14], [39, 1], [17, 23]])
@pytest.mark.parametrize("kernel", [scan, maxscan])
def test_pieces_with_a_state_are_the_whole(kernel, cuts: list[int]) -> None:
    a = torch.rand(2, 40, 3, dtype=torch.float64)
    u = torch.randn(2, 40, 3, dtype=torch.float64)
    pos = torch.stack([torch.cat([torch.arange(20), torch.arange(20)]), torch.arange(40) - 3])
    state, pieces = torch.zeros(2, 3, dtype=torch.float64), []
    for a_part, u_part, pos_part in zip(a.split(cuts, 1), u.split(cuts, 1), pos.split(cuts, 1), strict=True):
        piece, state = kernel(a_part, u_part, pos_part, state)
        pieces.append(piece)
    whole, _ = kernel(a, u, pos, torch.zeros(2, 3, dtype=torch.float64))
    assert_same((torch.cat(pieces, 1),), (whole,))


@pytest.mark.parametrize("time", [1, 2, 17, 67])
def test_the_maxscan_is_the_loop_with_restarts_and_states(time: int) -> None:
    torch.manual_seed(0)
    f = torch.randn(2, time, 3, dtype=torch.float64, requires_grad=True)
    i = torch.randn(2, time, 3, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    pos = packed(time)
    m, last = maxscan(f, i, pos, state)
    slow = slow_maxscan(f, i, pos, state)
    assert_same((m, last), (slow, slow[:, -1]))
    assert_same(gradients((m, last), (f, i, state)), gradients((slow, slow[:, -1]), (f, i, state)))


@pytest.mark.parametrize("state", [-torch.inf, 7.0, torch.nan])
def test_a_document_starts_the_maxscan_fresh(state: float) -> None:
    f, i = torch.randn(2, 30, 3, dtype=torch.float64), torch.randn(2, 30, 3, dtype=torch.float64)
    before = torch.full((2, 3), state, dtype=torch.float64)
    expected = slow_maxscan(f, i, torch.arange(30))
    for pos in (torch.arange(30), torch.arange(30).expand(2, 30)):
        m, _ = maxscan(f, i, pos, before)
        assert_same((m,), (expected,))
    assert_same((maxscan(f, i, torch.arange(30))[0],), (expected,))
