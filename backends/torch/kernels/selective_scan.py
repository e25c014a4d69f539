"""The selective scan of Mamba: a state of N values per channel that is never kept for more than a few tokens."""
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Sequence
from math import log, prod
from typing import Any

import torch
from kernels.operators import runs_fused, wants_gradient
from kernels.selective_gates import IDENTITY, SelectiveGates, fused_scan
from torch import Tensor
from torch.autograd.function import once_differentiable

HELD = 1 << 18  # values of states held at once: many tokens, so few operations, but what is in use stays in the cache
LEAST, MOST = 8, 128  # tokens whose states are held at once


def selective_scan(
    dt: Tensor, A: Tensor, x: Tensor, B: Tensor, C: Tensor, pos: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """`h[t] = exp(dt[t] A) h[t-1] + x[t] B[t]`, `y[t] = sum_n C[t] h[t]` (Gu and Dao 2023, algorithm 2).

    dt, x: [B, T, *axes], A: [*axes, N], negative, or what broadcasts to these. B, C: [B, T, N], or [B, T, *groups, N]
    with the first of the axes, 1 where groups share them. pos: [T] (whole documents, the state is not read) or [B, T];
    a document starts from h = 0. state: [B, *axes, N] or None.
    Returns y like x, and h[T-1] in at least single precision. The backward pass computes the states again from one
    state in every 8 to 128 tokens, on a GPU in every 32; where those of all tokens are fewer than HELD values, they are
    kept.
    """
    if runs_fused(x):
        return gated_selective_scan(IDENTITY, (x, dt), (), A, B, C, pos, state)
    wide = torch.promote_types(x.dtype, torch.float32)
    starts = pos == 0 if pos.dim() == 2 else None
    before = None if state is None or starts is None else state.to(wide)
    dtype, (dt, A, x, B, C) = x.dtype, (z.to(wide) for z in (dt, A, x, B, C))
    y, last = (_one_token if x.shape[1] == 1 else _tokens)(dt, A, x, B, C, starts, before)
    return y.to(dtype), None if state is None else last


def _tokens(
    dt: Tensor, A: Tensor, x: Tensor, B: Tensor, C: Tensor, starts: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """All of a sequence, with channels as [groups, C]."""
    shape, states = torch.broadcast_shapes(dt.shape, x.shape, A.shape[:-1]), A.shape[-1]
    groups = shape[2 : B.dim() - 1]
    count = prod(groups)
    dt, x = (z.expand(shape).reshape(*shape[:2], count, -1) for z in (dt, x))
    B, C = (z.expand(*shape[:2], *groups, states).reshape(*shape[:2], count, states) for z in (B, C))
    A = A.expand(*shape[2:], states).reshape(count, -1, states)
    h0 = None if state is None else state.reshape(shape[0], *A.shape).mT
    y, last = _SelectiveScan.apply(dt, A, x, B, C, starts, h0)
    return y.view(shape), last.mT.reshape(shape[0], *shape[2:], states)


def gated_selective_scan(
    gates: SelectiveGates,
    x: Sequence[Tensor],
    w: Sequence[Tensor],
    A: Tensor,
    B: Tensor,
    C: Tensor,
    pos: Tensor,
    state: Tensor | None = None,
    *,
    numbers: Sequence[float] = (),
) -> tuple[Tensor, Tensor | None]:
    """The selective scan of `dt, v = gates(x, w)`, and what the gates make of its y; on a GPU all of it is one kernel.

    x: each [B, T, *axes], w: each [*axes], or what broadcasts to these. numbers: those of the gates. A, B, C, pos,
    state: as for `selective_scan`, whose x is v. Returns y [B, T, *axes] in the dtype of x[0], and h[T-1] in at least
    single precision.
    """
    if runs_fused(x[0]):
        y, last = fused_scan(gates, x, w, A, B, C, pos, state, numbers)
        return y, last
    first = (pos == 0).reshape(pos.shape + (1,) * (x[0].dim() - 2))
    dt, v = gates.plain(*x, *w, *numbers, first)
    y, last = selective_scan(dt, A, v, B, C, pos, state)
    return (y if gates.read is None else gates.read.plain(y, *x, *w, *numbers)).to(x[0].dtype), last


def _one_token(
    dt: Tensor, A: Tensor, x: Tensor, B: Tensor, C: Tensor, starts: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One update and one product; the state [B, *axes, N] is written in place, unless gradients are wanted."""
    row = (slice(None), 0, ..., *(None,) * (x.dim() - B.dim()))  # with the axes of a group but the last
    x, B, C = x[:, 0, ..., None], B[(*row, None, slice(None))], C[(*row, slice(None), None)]
    if state is None or starts is None:
        h = (x * B).expand(-1, *torch.broadcast_shapes(dt.shape[2:], x.shape[1:-1], A.shape[:-1]), -1)
    else:
        decay = torch.exp(dt[:, 0, ..., None] * A)
        decay = decay.masked_fill(starts.reshape(-1, *(1,) * (decay.dim() - 1)), 0)
        if wants_gradient(decay, x, B, state):
            h = decay * state + x * B
        else:
            h = state.mul_(decay).addcmul_(x, B)
    return (h @ C)[:, None, ..., 0], h


class _SelectiveScan(torch.autograd.Function):
    """In blocks of tokens, with states laid out as [time, B, groups, N, C]: channels innermost, as in the inputs."""

    @staticmethod
    def forward(
        ctx: Any, dt: Tensor, A: Tensor, x: Tensor, B: Tensor, C: Tensor, starts: Tensor | None, h0: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        work = _Block(dt, A, x, B, starts)
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        y_time, C_time = y.transpose(0, 1), C.transpose(0, 1)
        saved = x.new_empty(len(work.blocks), *work.shape)
        kept: list[Tensor] = []
        h = x.new_zeros(work.shape) if h0 is None else h0
        for block, carry in zip(work.blocks, saved.unbind(), strict=True):
            carry.copy_(h)
            if work.keeps:
                work.decay, work.states = torch.empty_like(work.decay), torch.empty_like(work.states)
            decay, states = work.run(block, carry)
            kept += (decay, states) if work.keeps else ()
            y_time[block] = (C_time[block, :, :, None] @ states[1:])[..., 0, :]
            h = states[-1]
        ctx.save_for_backward(dt, A, x, B, C, starts, saved, *kept)
        ctx.has_state = h0 is not None
        return y, h.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        # The adjoint runs backwards: g[t] = dy[t] C[t] + a[t+1] g[t+1], and d(dt A)[t] = g[t] a[t] h[t-1].
        dt, A, x, B, C, starts, saved, *kept = ctx.saved_tensors
        work = _Block(dt, A, x, B, starts)
        grads = [torch.empty_like(z, memory_format=torch.contiguous_format) for z in (dt, x, B, C)]
        ddt, dx, dB, dC = (z.transpose(0, 1) for z in grads)
        C, dy = C.transpose(0, 1), dy.transpose(0, 1)
        d_rates = torch.zeros_like(work.rates)
        carry, adjoints, leaving = dlast, torch.empty_like(work.decay), torch.empty_like(work.states)
        for i in range(len(work.blocks) - 1, -1, -1):
            block = work.blocks[i]
            decay, states = kept[2 * i : 2 * i + 2] if kept else work.run(block, saved[i])
            g = torch.mul(dy[block, :, :, None], C[block, ..., None], out=adjoints[: len(decay)])
            e = leaving[: len(decay) + 1]  # a[t] g[t], of which the last is that of the block behind
            torch.mul(g, decay, out=e[:-1])
            e[-1] = carry
            steps = e.unbind()
            for e_t, a_t, after in zip(steps[-2::-1], reversed(decay.unbind()), steps[:0:-1], strict=True):
                e_t.addcmul_(a_t, after)
            g.add_(e[1:])
            carry, product = steps[0].clone(), e[:-1]
            # a row from the left: the product with a column takes ten times as long
            dC[block] = (dy[block, :, :, None] @ states[1:].mT)[..., 0, :]
            dB[block] = (work.x[block, :, :, None] @ g.mT)[..., 0, :]
            dx[block] = (work.B[block, :, :, None] @ g)[..., 0, :]
            g.mul_(decay).mul_(states[:-1])
            ddt[block] = torch.mul(g, work.rates, out=product).sum(-2)
            d_rates += torch.mul(g, work.dt[block, :, :, None], out=product).sum((0, 1))
        ddt, dx, dB, dC = grads
        return ddt, d_rates.mT, dx, dB, dC, None, carry if ctx.has_state else None


class _Block:
    """Time-major views of the inputs, buffers for one block, and the recurrence over its tokens from a given state."""

    def __init__(self, dt: Tensor, A: Tensor, x: Tensor, B: Tensor, starts: Tensor | None) -> None:
        time = x.shape[1]
        self.dt, self.x, self.B = (z.transpose(0, 1) for z in (dt, x, B))
        self.starts = None if starts is None else starts.t()[..., None, None, None]
        self.rates = A.mT.contiguous()  # [groups, N, C]
        self.octaves = self.rates / log(2)  # exp2 is up to three times as fast as exp
        self.shape = (x.shape[0], *self.rates.shape)
        size = min(MOST, max(LEAST, HELD // max(1, prod(self.shape))))
        self.keeps = time * prod(self.shape) <= HELD
        self.blocks = [slice(t, min(t + size, time)) for t in range(0, time, size)]
        self.decay = x.new_empty(size, *self.shape)
        self.states = x.new_empty(size + 1, *self.shape)

    def run(self, block: slice, h: Tensor) -> tuple[Tensor, Tensor]:
        """The decays [K, B, groups, N, C] of a block, and its states [K + 1, B, groups, N, C] with h first."""
        tokens = block.stop - block.start
        decay, states = self.decay[:tokens], self.states[: tokens + 1]
        torch.mul(self.dt[block, :, :, None], self.octaves, out=decay).exp2_()
        if self.starts is not None:
            decay.masked_fill_(self.starts[block], 0)
        torch.mul(self.x[block, :, :, None], self.B[block, ..., None], out=states[1:])
        states[0] = h
        steps = states.unbind()
        for a_t, before, now in zip(decay.unbind(), steps[:-1], steps[1:], strict=True):
            now.addcmul_(a_t, before)
        return decay, states
