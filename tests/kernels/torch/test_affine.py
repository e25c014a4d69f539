"""Products with a bias by oneDNN, against the same equation in double precision."""

from collections.abc import Callable

import kernels.affine as module
import pytest
import torch
from kernels.affine import affine
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

pytestmark = pytest.mark.skipif(not module.ONEDNN, reason="this build of torch has no oneDNN")
SHAPES = [(2, 5, 7, 3), (1, 1, 1, 1), (3, 64, 33, 130)]  # sequences, tokens, in, out


@pytest.fixture(autouse=True)
def _any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 0)


def operands(batch: int, time: int, size: int, out: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, time, size), (size, out), (out,)
    return tuple(torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes)


def plain(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    return x @ W + b


def first_and_second(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    y = function(*inputs)
    once = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
    twice = torch.autograd.grad(sum(g.square().sum() for g in once), inputs)
    return y, *once, *twice


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_equation(shape: tuple[int, int, int, int]) -> None:
    inputs = operands(*shape)
    wide = tuple(t.detach().double().requires_grad_() for t in inputs)
    assert "_OneDnn" in type(affine(*inputs).grad_fn).__name__
    for mine, theirs in zip(first_and_second(affine, *inputs), first_and_second(plain, *wide), strict=True):
        torch.testing.assert_close(
            mine.double(), theirs, rtol=1e-4, atol=1e-4 * max(1.0, *theirs.detach().abs().flatten().tolist())
        )


def test_views_of_other_orders_are_read_as_they_are() -> None:
    x, W, b = operands(4, 6, 5, 3)
    torch.testing.assert_close(affine(x.transpose(0, 1), W, b), plain(x.transpose(0, 1), W, b))
    torch.testing.assert_close(affine(x[:, ::2], W.T.contiguous().T, b), plain(x[:, ::2], W, b))


def test_gradients_of_each_example_pass_through() -> None:
    inputs = operands(2, 5, 7, 3)
    for mine, theirs in zip(per_example(affine, *inputs), per_example(plain, *inputs), strict=True):
        torch.testing.assert_close(mine, theirs)


def per_example(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    gradient = torch.func.grad(lambda *operands: function(*operands).sin().sum(), argnums=(0, 1, 2))
    found: tuple[Tensor, ...] = torch.func.vmap(gradient, (0, None, None))(*inputs)
    return found


def test_its_work_is_counted() -> None:
    inputs = operands(2, 5, 7, 3)
    with FlopCounterMode(display=False) as counter:
        affine(*inputs).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * (2 * 5 * 7 * 3)


def test_what_it_does_not_suit_goes_to_the_framework() -> None:
    x, W, b = operands(2, 5, 7, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert affine(x, W, b).dtype == torch.bfloat16
    assert affine(x.double(), W.double(), b.double()).dtype == torch.float64
