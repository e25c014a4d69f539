"""The causal depthwise convolution over time."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import torch
from kernels.activation import NONE, Activation
from kernels.operators import TRITON, runs_fused, wants_gradient
from torch import Tensor
from torch.autograd.function import once_differentiable

if TRITON:
    from kernels.conv_launch import Taps, fused_conv


def causal_conv(
    x: Tensor,
    w: Tensor,
    pos: Tensor,
    state: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    activation: Activation = NONE,
    tokens: tuple[Tensor, ...] = (),
    weights: tuple[Tensor, ...] = (),
    numbers: tuple[float, ...] = (),
) -> tuple[Tensor, Tensor | None]:
    """`y[t] = sum_j w[taps-1-j] x[t-j]` over the `j < taps` that stay inside the document: `j <= pos[t]`.

    x: [B, T, *axes]. w: [taps, *axes], the last tap weighs the present. pos: [T] (whole documents, the state is not
    read) or [B, T]. state: the last taps - 1 inputs [B, taps-1, *axes], oldest first, or None. bias [*axes] is added to
    y, and the activation taken of the sum; it reads tokens [B, T, *axes], weights [*axes] or what broadcasts to these,
    and numbers.
    Returns y like x, computed in at least single precision, and the last taps - 1 inputs.
    """
    one = x.shape[1] == 1 and state is not None and pos.dim() == 2
    reads = x, w, state, bias, *tokens, *weights
    if one and state is not None and runs_fused(x) and not wants_gradient(*reads):
        return fused_conv(activation, Taps(x, w, bias), pos, tokens, weights, numbers, state)
    stream, last = x, None
    if state is not None:
        stream = torch.cat([state.to(x.dtype), x], 1)
        last = stream[:, stream.shape[1] - (w.shape[0] - 1) :]
        stream = x if pos.dim() == 1 else stream
    if runs_fused(x):
        places = None if pos.dim() == 1 else pos
        return fused_conv(activation, Taps(stream, w, bias), places, tokens, weights, numbers)[0], last
    y = _one_token(stream, w, pos) if one else _Conv.apply(stream, w, pos)
    if bias is not None:
        y = y + bias.to(y.dtype)
    return activation.plain(y, *tokens, *weights, *numbers).to(x.dtype), last


def _one_token(stream: Tensor, w: Tensor, pos: Tensor) -> Tensor:
    """The present [B, 1, *axes] from the last inputs [B, taps, *axes], in at least single precision."""
    wide = torch.promote_types(stream.dtype, torch.float32)
    weighted = stream * w.to(wide)
    if pos.device.type != "cpu" or int(pos.min()) < w.shape[0] - 1:  # an accelerator would have to wait for the answer
        distance = torch.arange(w.shape[0] - 1, -1, -1, device=pos.device)
        weighted = weighted * _over_axes((distance <= pos) | (distance == 0), stream)
    return weighted.sum(1, keepdim=True)


def _over_axes(flags: Tensor, x: Tensor) -> Tensor:
    return flags.reshape(flags.shape + (1,) * (x.dim() - 2))


class _Conv(torch.autograd.Function):
    """The convolution of the last T tokens of x [B, past + T, *axes], where pos is [T] (past = 0) or [B, T].

    In at least single precision, so that a bias and an activation come before the rounding.
    Tap by tap on shifted views, because a grouped convolution wants time innermost and so two transposes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, pos: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        y = w[-1].to(wide) * x[:, x.shape[1] - pos.shape[-1] :]
        for j, now, then in _shifts(x, w, pos):
            y[:, now].addcmul_(_inside(x[:, then], pos, j, now), w[-1 - j].to(wide))
        ctx.save_for_backward(x, w, pos)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        x, w, pos = ctx.saved_tensors
        wide = torch.promote_types(x.dtype, torch.float32)
        dx = torch.zeros_like(x, dtype=wide)
        dw = torch.zeros_like(w, dtype=wide)
        present = slice(x.shape[1] - pos.shape[-1], None)
        torch.mul(dy, w[-1].to(wide), out=dx[:, present])
        dw[-1] = (dy * x[:, present]).sum((0, 1))
        for j, now, then in _shifts(x, w, pos):
            g = _inside(dy[:, now], pos, j, now)
            dx[:, then].addcmul_(g, w[-1 - j].to(wide))
            dw[-1 - j] = (g * x[:, then]).sum((0, 1))
        return dx.to(x.dtype), dw.to(w.dtype), None


def _shifts(x: Tensor, w: Tensor, pos: Tensor) -> list[tuple[int, slice, slice]]:
    """For each tap before the last: its distance j, the tokens that have an input j steps back, and those inputs."""
    length, time = x.shape[1], pos.shape[-1]
    past = length - time
    first = {j: max(0, j - past) for j in range(1, w.shape[0])}
    return [(j, slice(t, time), slice(t + past - j, length - j)) for j, t in first.items() if t < time]


def _inside(x: Tensor, pos: Tensor, j: int, now: slice) -> Tensor:
    """The values x [B, n, *axes] that belong to the tokens `now`, zero where the document is younger than j steps."""
    return x if pos.dim() == 1 else x * _over_axes(pos[:, now] >= j, x)
