"""Mamba's gates as device functions: `dt = softplus(raw + bias)`, `v = dt u`, `o = (y + D u) silu(z)`."""

import torch
import triton
import triton.language as tl
from kernels.read_out import Read
from kernels.selective_gates import SelectiveGates


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def gates(x, w, first):
    dt = tl.log(1.0 + tl.exp(x[1] + w[0]))
    return dt, tl.where(first, 2.0, 1.0) * dt * x[0]


@triton.jit
def gates_grad(x, w, first, d_dt, d_v):
    dt, _ = gates(x, w, first)
    twice = tl.where(first, 2.0, 1.0)
    d = (d_dt + d_v * twice * x[0]) * _sigmoid(x[1] + w[0])
    return (d_v * twice * dt, d, 0.0 * d), (d, 0.0 * d)


@triton.jit
def read(y, x, w):
    return (y + w[1] * x[0]) * x[2] * _sigmoid(x[2])


@triton.jit
def read_grad(y, x, w, do):
    s = _sigmoid(x[2])
    d = do * x[2] * s
    dz = do * (y + w[1] * x[0]) * s * (1.0 + x[2] * (1.0 - s))
    return d, (d * w[1], 0.0 * d, dz), (0.0 * d, d * x[0])


def plain(u, raw, z, bias, D, first):
    """A document's first input counts twice, so that the gates read `first`."""
    dt = torch.nn.functional.softplus(raw + bias)
    return dt, torch.where(first, 2.0, 1.0).to(dt.dtype) * dt * u


def plain_read(y, u, raw, z, bias, D):
    return (y + D * u) * torch.nn.functional.silu(z)


MAMBA = SelectiveGates(plain, gates, gates_grad, Read(plain_read, read, read_grad))
