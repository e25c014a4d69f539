"""The fused scan of outer products in Triton's interpreter, against the recurrence written out in double precision."""

import pytest
import torch
from archc.backends.torch.executed import TorchKernels
from kernels import chunked_fused
from kernels.chunked_scan import chunked_scan
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from archc.emit.executed import Heads
from tests.kernels.triton.quick import quick  # noqa: F401 (a fixture)

ASKED = ("test_schema", "test_autograd_registration", "test_faketensor")  # the rest takes the interpreter too long


def slow(log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    ys = []
    for t in range(v.shape[1]):
        kept = (pos.expand(v.shape[:2])[:, t] != 0).to(S.dtype).reshape(-1, 1, 1)
        S = (kept * log_a[:, t].exp())[..., None, None] * S + k[:, t, ..., None] * v[:, t, :, :, None]
        ys.append((q[:, t, ..., None] * S).sum(-2))
    return torch.stack(ys, 1), S


def inputs(
    time: int,
    shared: str = "",
    sizes: tuple[int, int] = (4, 5),
    strength: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """log_a, k, v, q of 2 sequences, 2 groups, 3 heads."""
    torch.manual_seed(time)
    key, value = sizes
    log_a = -strength * torch.rand(2, time, 2, 3)
    k = torch.randn(2, time, 2, 1 if "k" in shared else 3, key)
    v = torch.randn(2, time, 2, 3, value)
    q = torch.randn(2, time, 2, 1 if "q" in shared else 3, key)
    wide = torch.promote_types(dtype, torch.float32)
    return [x.to(d).requires_grad_() for x, d in zip((log_a, k, v, q), (wide, dtype, dtype, dtype), strict=True)]


def packed(time: int) -> Tensor:
    """A document that goes on, one of a single token, one that ends with a chunk; and padding on the left."""
    row = torch.cat([torch.arange(4, 6), torch.arange(1), torch.arange(13), torch.arange(22), torch.arange(time)])
    return torch.stack([row[:time], torch.arange(time) - 2])


def before(sizes: tuple[int, int] = (4, 5)) -> Tensor:
    return torch.randn(2, 2, 3, *sizes, dtype=torch.float64, requires_grad=True)


def gradients(outputs: tuple[Tensor, Tensor], wanted: list[Tensor]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, wanted, weights)


def assert_same(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def distance(mine: Tensor, theirs: Tensor) -> float:
    return float((mine.detach().double() - theirs.detach()).norm() / theirs.detach().norm())


@pytest.mark.parametrize(("time", "shared"), [(1, ""), (1, "kq"), (3, "q"), (53, ""), (53, "kq"), (32, "k")])
def test_values_and_gradients_are_exact_with_restarts_and_states(time: int, shared: str) -> None:
    operands, state = inputs(time, shared), before()
    mine, theirs = (scan(*operands, packed(time), state) for scan in (chunked_scan, slow))
    assert_same(mine, theirs)
    assert_same(gradients(mine, [*operands, state]), gradients(theirs, [*operands, state]))


@pytest.mark.parametrize("sizes", [(20, 33), (16, 16), (1, 1)])
def test_keys_and_values_that_do_not_fill_tiles(sizes: tuple[int, int]) -> None:
    operands, state = inputs(19, "kq", sizes), before(sizes)
    mine, theirs = (scan(*operands, packed(19), state) for scan in (chunked_scan, slow))
    assert_same(mine, theirs)
    assert_same(gradients(mine, [*operands, state]), gradients(theirs, [*operands, state]))


def test_a_whole_document_does_not_read_the_state_but_leaves_one() -> None:
    operands, pos, zeros = inputs(20), torch.arange(20), torch.zeros(2, 2, 3, 4, 5, dtype=torch.float64)
    theirs = slow(*operands, pos, zeros)
    mine = chunked_scan(*operands, pos, zeros + 1e9)
    assert_same(mine, theirs)
    assert_same(gradients(mine, operands), gradients(theirs, operands))
    y, none = chunked_scan(*operands, pos)
    assert none is None
    theirs = slow(*operands, pos, zeros)
    assert_same((y,), theirs[:1])
    assert_same(torch.autograd.grad(y.sum(), operands), torch.autograd.grad(theirs[0].sum(), operands))


@pytest.mark.parametrize("cuts", [[1, 1, 20, 12], [32, 2]])
def test_pieces_with_a_state_are_the_whole(cuts: list[int]) -> None:
    operands, pos, state, pieces = [x.detach() for x in inputs(34)], packed(34), torch.zeros_like(before()), []
    for parts in zip(*(x.split(cuts, 1) for x in (*operands, pos)), strict=True):
        y, state = chunked_scan(*parts, state)
        pieces.append(y)
    assert_same((torch.cat(pieces, 1), state), slow(*operands, pos, torch.zeros_like(before())))


@pytest.mark.parametrize("strength", [1e-4, 5.0, 200.0])
def test_weak_and_strong_decays_in_single_precision(strength: float) -> None:
    operands, state = (
        inputs(53, "kq", strength=strength, dtype=torch.float32),
        before().detach().float().requires_grad_(),
    )
    wide = [x.detach().double().requires_grad_() for x in (*operands, state)]
    mine, theirs = chunked_scan(*operands, packed(53), state), slow(*wide[:-1], packed(53), wide[-1])
    found, expected = gradients(mine, [*operands, state]), gradients(theirs, wide)
    for one, other in zip((*mine, *found), (*theirs, *expected), strict=True):
        assert distance(one, other) < 2e-6


def test_a_decay_of_zero_forgets() -> None:
    log_a, *operands = (x.detach() for x in inputs(40))
    log_a[:, 20] = -torch.inf
    y, _ = chunked_scan(log_a, *operands, torch.arange(40))
    alone, _ = chunked_scan(log_a[:, 20:], *(x[:, 20:] for x in operands), torch.arange(20))
    assert_same((y[:, 20:],), (alone,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_are_in_single_precision_whatever_comes_in(dtype: torch.dtype) -> None:
    operands, state = inputs(40, "kq", dtype=dtype), before().detach().float().requires_grad_()
    wide = [x.detach().double().requires_grad_() for x in (*operands, state)]
    mine, theirs = chunked_scan(*operands, packed(40), state), slow(*wide[:-1], packed(40), wide[-1])
    assert (mine[0].dtype, mine[1].dtype) == (dtype, torch.float32)
    assert distance(mine[1], theirs[1]) < 1e-3
    found, expected = gradients(mine, [*operands, state]), gradients(theirs, wide)
    for one, other in zip((mine[0], *found), (theirs[0], *expected), strict=True):
        assert distance(one, other) < 1e-2


@pytest.mark.parametrize(("time", "shared"), [(7, ""), (70, "kq")])
def test_the_counter_sees_what_the_report_says(time: int, shared: str) -> None:
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        y, _ = chunked_scan(*inputs(time, shared), torch.arange(time))
        forward = counter.get_total_flops()
        y.sum().backward()
        total = counter.get_total_flops()
    said = TorchKernels().chunked("chunked", time, Heads(2, 3, 4, 5, bool(shared), True)) * 2
    assert (forward, total) == (said.forward, said.train)


def test_the_operator_holds_what_torch_asks_of_it() -> None:
    log_a, k, v, q = (x.detach().flatten(2, 3).requires_grad_() for x in inputs(4))
    state = before().detach().flatten(1, 2).requires_grad_()
    torch.library.opcheck(chunked_fused._OPERATOR, (log_a, k, v, q, packed(4), state), test_utils=ASKED)
