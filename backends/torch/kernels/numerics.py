"""Single-precision islands and functions that torch lacks."""

import math

import torch
from torch import Tensor


def fp32(x: Tensor) -> Tensor:
    """x in at least single precision: halves and integers become float32, float64 and complex numbers stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def inv_softplus(y: Tensor) -> Tensor:
    """The x with `softplus(x) = y > 0`: `y + log(1 - exp(-y))`, exact for small and large y alike."""
    return y + torch.log(-torch.expm1(-y))


def top(x: Tensor, k: int, dim: int) -> Tensor:
    """True at the k largest along an axis; of equals those that come first."""
    first = x.argsort(dim=dim, descending=True, stable=True).narrow(dim, 0, k)
    return torch.zeros_like(x, dtype=torch.bool).scatter(dim, first, True)


def softmax_over(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Softmax over several axes together, in at least single precision."""
    x = fp32(x)
    return torch.exp(x - x.logsumexp(dims, keepdim=True))


def orthogonal(*shape: int) -> Tensor:
    """Columns of unit length along the first axis, orthogonal to one another in blocks of as many as there can be."""
    rows, columns = shape[0], math.prod(shape[1:])
    blocks = [torch.linalg.qr(torch.randn(rows, rows))[0] for _ in range(-(-columns // rows))]
    return torch.cat(blocks, 1)[:, :columns].reshape(shape)
