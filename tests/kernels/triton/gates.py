"""Gates of known recurrences, written by hand in three forms: equations, device function, its derivatives."""

import torch
import triton
import triton.language as tl
from kernels.device import tanh
from kernels.gated import Gates
from kernels.read_out import Read
from torch import Tensor


def rg_lru(r: Tensor, i: Tensor, v: Tensor, rate: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """De et al. 2024 (Griffin), equations 1 to 4, where a document begins without the square root."""
    a = torch.exp(rate * torch.sigmoid(r))
    return a, torch.where(first, 1.0, torch.sqrt(1 - a * a)) * torch.sigmoid(i) * v


@triton.jit
def rg_lru_device(x, w, first):
    a = tl.exp(w[0] * tl.sigmoid(x[0]))
    return a, tl.where(first, 1.0, tl.sqrt(1.0 - a * a)) * tl.sigmoid(x[1]) * x[2]


@triton.jit
def rg_lru_grad(x, w, first, da, du):
    r = tl.sigmoid(x[0])
    i = tl.sigmoid(x[1])
    a = tl.exp(w[0] * r)
    m = tl.where(first, 1.0, tl.sqrt(1.0 - a * a))
    dlog = (da - tl.where(first, 0.0, du * i * x[2] * a / tl.maximum(m, 1e-20))) * a
    return (dlog * w[0] * r * (1.0 - r), du * m * x[2] * i * (1.0 - i), du * m * i), (dlog * r,)


def hgrn(f: Tensor, c: Tensor, low: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Qin et al. 2023, section 3.2, real: a decay with a lower bound, its complement lets in silu of the candidate."""
    a = low + (1 - low) * torch.sigmoid(f)
    return a, (1 - a) * torch.nn.functional.silu(c)


@triton.jit
def hgrn_device(x, w, first):
    a = w[0] + (1.0 - w[0]) * tl.sigmoid(x[0])
    return a, (1.0 - a) * x[1] * tl.sigmoid(x[1])


@triton.jit
def hgrn_grad(x, w, first, da, du):
    f = tl.sigmoid(x[0])
    c = tl.sigmoid(x[1])
    a = w[0] + (1.0 - w[0]) * f
    da = da - du * x[1] * c
    dc = du * (1.0 - a) * c * (1.0 + x[1] * (1.0 - c))
    return (da * (1.0 - w[0]) * f * (1.0 - f), dc), (da * (1.0 - f),)


def min_gru(z: Tensor, c: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Feng et al. 2024, appendix B: h = (1 - z) h + z g(c), with g positive."""
    z = torch.sigmoid(z)
    return 1 - z, z * torch.where(c >= 0, c + 0.5, torch.sigmoid(c))


@triton.jit
def min_gru_device(x, w, first):
    z = tl.sigmoid(x[0])
    return 1.0 - z, z * tl.where(x[1] >= 0, x[1] + 0.5, tl.sigmoid(x[1]))


@triton.jit
def min_gru_grad(x, w, first, da, du):
    z = tl.sigmoid(x[0])
    c = tl.sigmoid(x[1])
    g = tl.where(x[1] >= 0, x[1] + 0.5, c)
    return ((du * g - da) * z * (1.0 - z), du * z * tl.where(x[1] >= 0, 1.0, c * (1.0 - c))), ()


def gated_rg_lru(
    r: Tensor, i: Tensor, v: Tensor, z: Tensor, rate: Tensor, skip: Tensor, first: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence, beside inputs that only its result needs."""
    return rg_lru(r, i, v, rate, first)


@triton.jit
def gated_rg_lru_grad(x, w, first, da, du):
    dx, dw = rg_lru_grad(x, w, first, da, du)
    return (dx[0], dx[1], dx[2], tl.zeros_like(x[3])), (dw[0], tl.zeros_like(dw[0]))


def output_gate(h: Tensor, r: Tensor, i: Tensor, v: Tensor, z: Tensor, rate: Tensor, skip: Tensor) -> Tensor:
    """A way around the state and a gate behind it."""
    return (h + skip * v) * torch.nn.functional.silu(z)


@triton.jit
def output_gate_device(h, x, w):
    return (h + w[1] * x[2]) * x[3] * tl.sigmoid(x[3])


@triton.jit
def output_gate_grad(h, x, w, do):
    s = tl.sigmoid(x[3])
    dh = do * x[3] * s
    dz = do * (h + w[1] * x[2]) * s * (1.0 + x[3] * (1.0 - s))
    zero = tl.zeros_like(dh)
    return dh, (zero, zero, dh * w[1], dz), (zero, dh * x[2])


def bounded_min_gru(z: Tensor, c: Tensor, g: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    return min_gru(z, c, first)


@triton.jit
def bounded_min_gru_grad(x, w, first, da, du):
    dx, dw = min_gru_grad(x, w, first, da, du)
    return (dx[0], dx[1], tl.zeros_like(x[2])), dw


def bound(h: Tensor, z: Tensor, c: Tensor, g: Tensor) -> Tensor:
    """A result whose slope depends on the state."""
    return torch.tanh(h + g)


@triton.jit
def bound_device(h, x, w):
    return tanh(h + x[2])


@triton.jit
def bound_grad(h, x, w, do):
    y = tanh(h + x[2])
    dh = do * (1.0 - y * y)
    return dh, (tl.zeros_like(dh), tl.zeros_like(dh), dh), ()


OUTPUT_GATE = Read(output_gate, output_gate_device, output_gate_grad, linear=True)
GATED_RG_LRU = Gates(gated_rg_lru, rg_lru_device, gated_rg_lru_grad, OUTPUT_GATE)
BOUND = Read(bound, bound_device, bound_grad)
BOUNDED_MIN_GRU = Gates(bounded_min_gru, min_gru_device, bounded_min_gru_grad, BOUND)
RG_LRU = Gates(rg_lru, rg_lru_device, rg_lru_grad)
HGRN = Gates(hgrn, hgrn_device, hgrn_grad)
MIN_GRU = Gates(min_gru, min_gru_device, min_gru_grad)
GATED_BEFORE = Gates(gated_rg_lru, rg_lru_device, gated_rg_lru_grad, OUTPUT_GATE, before=True)
BOUNDED_BEFORE = Gates(bounded_min_gru, min_gru_device, bounded_min_gru_grad, BOUND, before=True)
HGRN_BEFORE = Gates(hgrn, hgrn_device, hgrn_grad, before=True)
