"""A scan that is read out at once, as a convolution and as a scan, against sums over all earlier tokens."""

import pytest
import torch
from kernels.long_convolution import long_convolution
from torch import Tensor

LENGTHS = (9, 1, 17)
TIME = sum(LENGTHS)
PACKED = torch.stack([torch.cat([torch.arange(n) for n in LENGTHS]), torch.arange(TIME) - 4])


def drawn(*shape: int, kind: str = "complex") -> Tensor:
    draw = torch.Generator().manual_seed(sum(shape))
    real, imaginary = (torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2))
    return (torch.complex(real, imaginary) if kind == "complex" else real).requires_grad_()


def inputs(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Decays inside of the unit circle, one of them 0; an input of two sequences; read-outs."""
    a = drawn(3, 5, kind=kind)
    with torch.no_grad():
        a /= 1 + a.abs()
        a[0, 0] = 0
    return a, drawn(2, TIME, 3, kind="real"), drawn(3, 5, kind=kind)


def slow(a: Tensor, u: Tensor, c: Tensor, pos: Tensor) -> Tensor:
    """The weights of all pairs of tokens: K[t - s] where s is of the document of t."""
    distance = (torch.arange(TIME)[:, None] - torch.arange(TIME)).clamp(min=0)
    powers = [torch.ones_like(a)]
    for _ in range(TIME - 1):
        powers.append(powers[-1] * a)
    kernel = (c[..., None] * torch.stack(powers, -1)).sum(1)[:, distance]  # [C, T, S]
    seen = torch.ones(TIME, TIME, dtype=torch.bool).tril() & (distance <= pos[..., None])
    return torch.einsum("cts,bts,bsc->btc", kernel, seen.to(kernel.dtype), u.to(kernel.dtype))


@pytest.mark.parametrize("kind", ["complex", "real"])
@pytest.mark.parametrize("packed", [False, True])
def test_values_and_gradients(kind: str, packed: bool) -> None:
    tensors = inputs(kind)
    pos = PACKED if packed else torch.arange(TIME)
    found, state = long_convolution(*tensors, pos)
    wanted = slow(*tensors, PACKED if packed else torch.arange(TIME).expand(2, -1))
    assert state is None
    assert found.is_complex() == (kind == "complex")
    counts = (PACKED >= 0)[..., None] if packed else torch.ones(2, TIME, 1, dtype=torch.bool)
    torch.testing.assert_close(found * counts, wanted * counts)
    weights = drawn(*found.shape, kind=kind).detach() * counts
    pairs = zip(*(torch.autograd.grad((y * weights).sum().real, tensors) for y in (found, wanted)), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["complex", "real"])
def test_pieces_from_a_state_are_the_convolution(kind: str) -> None:
    a, u, c = (x.detach() for x in inputs(kind))
    state = torch.zeros(2, 3, 5, dtype=a.dtype)
    parts, first = [], 0
    for part in u.split((7, 1, 1, 18), 1):
        pos = torch.arange(first, first := first + part.shape[1]).expand(2, -1)
        y, state = long_convolution(a, part, c, pos, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), long_convolution(a, u, c, torch.arange(TIME))[0])


def test_single_precision_is_as_good_as_a_scan() -> None:
    """A thousand tokens with slow decays: neither form is more than a few roundings from double precision."""
    time, draw = 1024, torch.Generator().manual_seed(0)
    phase = torch.rand(4, 8, generator=draw, dtype=torch.float64)
    a, c = torch.exp(torch.complex(-0.01 * phase, 6 * phase)), torch.complex(phase, 1 - phase)
    u = torch.randn(1, time, 4, generator=draw, dtype=torch.float64)
    wanted = long_convolution(a, u, c, torch.arange(time)[None])[0]
    narrow = (a.to(torch.complex64), u.float(), c.to(torch.complex64))
    errors = [
        (long_convolution(*narrow, pos)[0] - wanted).abs().max()
        for pos in (torch.arange(time), torch.arange(time)[None])
    ]
    assert errors[0] < 4 * errors[1] < 1e-3 * wanted.abs().max()
