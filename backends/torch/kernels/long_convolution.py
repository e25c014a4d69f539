"""Scans that are read out at once and whose decay is the same for every token: a convolution, by Fourier transforms.

y[t] = sum_n c[n] h[t, n], h[t] = a h[t-1] + u[t] is y = K * u with K[l] = sum_n c[n] a[n]^l. No state of any token is
kept, and T tokens take O(T log T). (Gu et al. 2022, arXiv:2111.00396, section 2.3)
"""

import torch
from kernels.scan import scan
from torch import Tensor


def long_convolution(
    a: Tensor, u: Tensor, c: Tensor, pos: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Of a, c [*C, N] or what broadcasts to that, real or complex, and u [B, T, *C]: y [B, T, *C], and the last state.

    y is complex if a or c is, else in the dtype of u. state: [B, *C, N] or None. The convolution is of whole documents
    from nothing, pos [T]; packed ones, and what continues a state or gives one, are scanned.
    """
    a, c = torch.broadcast_tensors(a, c)  # type: ignore[no-untyped-call]
    u = u.expand(*u.shape[:2], *a.shape[:-1])
    wide = torch.promote_types(torch.promote_types(a.dtype, c.dtype), torch.promote_types(u.dtype, torch.float32))
    if state is not None or pos.dim() == 2:
        h, state = scan(a, u[..., None].expand(*u.shape, a.shape[-1]), pos, state)
        y = (h * c).sum(-1)
    else:
        y = _convolved(u, _impulse(a.to(wide), c.to(wide), u.shape[1]))
    return (y if wide.is_complex else y.to(u.dtype)), state


def _impulse(a: Tensor, c: Tensor, time: int) -> Tensor:
    """K [*C, T]: powers of a within blocks of about sqrt(T) steps, times those at the beginnings of blocks."""
    side = 1 << (time.bit_length() + 1) // 2
    within = _powers(a, side)
    starts = _powers(within[..., -1] * a, -(-time // side))
    blocks = torch.einsum("...ni,...nj->...ij", c[..., None] * starts, within)
    return blocks.flatten(-2)[..., :time]


def _powers(a: Tensor, count: int) -> Tensor:
    """a^0, a^1, ...: [..., count], by doubling, which a zero survives."""
    powers = torch.ones_like(a)[..., None]
    while powers.shape[-1] < count:
        powers = torch.cat([powers, powers * a[..., None]], -1)
        a = a * a
    return powers[..., :count]


def _convolved(u: Tensor, kernel: Tensor) -> Tensor:
    """sum over s <= t of kernel[t - s] u[s], of u [B, T, *C] and kernel [*C, T], as real convolutions."""
    if u.is_complex():
        real, imaginary = (_convolved(part, kernel) for part in (u.real, u.imag))
        return real + 1j * imaginary
    time = u.shape[1]
    length = 1 << (2 * time - 1).bit_length()  # zeros keep the end from reaching the beginning
    parts = (kernel.real, kernel.imag) if kernel.is_complex() else (kernel,)
    spectrum = torch.fft.rfft(u.to(parts[0].dtype), length, 1)
    found = []
    for part in parts:
        product = spectrum * torch.fft.rfft(part, length, -1).movedim(-1, 0)
        found.append(torch.fft.irfft(product, length, 1)[:, :time])
    return torch.complex(*found) if kernel.is_complex() else found[0]
