"""What follows a convolution, written by hand in three forms: equations, device function, its derivatives."""

import torch
import triton
import triton.language as tl
from kernels.activation import Activation
from kernels.device import tanh
from torch import Tensor


def conv_silu(total: Tensor) -> Tensor:
    return total * torch.sigmoid(total)


@triton.jit
def conv_silu_device(total, x, w):
    return total * tl.sigmoid(total)


@triton.jit
def conv_silu_grad(total, x, w, do):
    s = tl.sigmoid(total)
    return do * s * (1.0 + total * (1.0 - s)), (), ()


def gate(total: Tensor, x: Tensor, scale: Tensor, shift: Tensor, number: float) -> Tensor:
    """A token, two weights and a number, of which a derivative depends on each and on the sum."""
    return torch.tanh(scale * total) * x + number * shift * x * x


@triton.jit
def gate_device(total, x, w):
    return tanh(w[0] * total) * x[0] + w[2] * w[1] * x[0] * x[0]


@triton.jit
def gate_grad(total, x, w, do):
    y = tanh(w[0] * total)
    d = do * x[0] * (1.0 - y * y)
    return d * w[0], (do * (y + 2.0 * w[2] * w[1] * x[0]),), (d * total, do * w[2] * x[0] * x[0])


def straight(total: Tensor, x: Tensor, shift: Tensor) -> Tensor:
    """No derivative depends on the sum."""
    return 2 * total + x * shift


@triton.jit
def straight_device(total, x, w):
    return 2.0 * total + x[0] * w[0]


@triton.jit
def straight_grad(total, x, w, do):
    return 2.0 * do, (do * w[0],), (do * x[0],)


def log(total: Tensor, x: Tensor) -> Tensor:
    """Not a number where there is no token and nothing is read but zeros."""
    return torch.log(total * total) + torch.log(x * x)


@triton.jit
def log_device(total, x, w):
    return tl.log(total * total) + tl.log(x[0] * x[0])


@triton.jit
def log_grad(total, x, w, do):
    return 2.0 * do / total, (2.0 * do / x[0],), ()


SILU = Activation(conv_silu, conv_silu_device, conv_silu_grad)
GATE = Activation(gate, gate_device, gate_grad)
STRAIGHT = Activation(straight, straight_device, straight_grad, needs_total=False)
LOG = Activation(log, log_device, log_grad)
