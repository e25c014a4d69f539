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


def root(x: Tensor) -> Tensor:
    """The square root, without a slope where x is 0.

    There it is infinite, and what x is made of mostly has none (a norm, relu): 0 times infinity would be nan.
    """
    flat = x == 0
    return x.masked_fill(flat, 1).sqrt().masked_fill(flat, 0)


def power(x: Tensor, p: Tensor | float) -> Tensor:
    """`x ** p`; where x is 0 and p between 0 and 1, without a slope, as in `root`."""
    flat = (x == 0) & (p > 0) & (p < 1)
    return (torch.where(flat, 1.0, x) ** p).masked_fill(flat, 0)


def top(x: Tensor, k: int, dim: int) -> Tensor:
    """True at the k largest along an axis; of equals those that come first."""
    first = x.argsort(dim=dim, descending=True, stable=True).narrow(dim, 0, k)
    return torch.zeros_like(x, dtype=torch.bool).scatter(dim, first, True)


def softmax_over(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Softmax over several axes together, in at least single precision."""
    x = fp32(x)
    return torch.exp(x - x.logsumexp(dims, keepdim=True))


def orthogonal(*shape: int, kept: int = 0, rows: int = 1) -> Tensor:
    """Matrices with columns of unit length, orthogonal to one another in blocks of as many as there can be.

    The first `kept` axes count matrices, the next `rows` are the rows of each, the others its columns. Every orthogonal
    block is as likely as any other (Mezzadri 2007, arXiv:math-ph/0609050, section 5).
    """
    count, height = math.prod(shape[:kept]), math.prod(shape[kept : kept + rows])
    columns = math.prod(shape[kept + rows :])
    q, r = torch.linalg.qr(torch.randn(count, -(-columns // height), height, height))
    blocks: Tensor = q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    return blocks.transpose(1, 2).reshape(count, height, -1)[..., :columns].reshape(shape)
