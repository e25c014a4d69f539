"""First-order recurrences over time as operations on whole tensors: linear and max-plus, with restarts and states."""
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def linear_scan(
    a: Tensor | complex, u: Tensor, pos: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """See `kernels.scan.scan`."""
    wide = _wide(u.dtype, a.dtype if isinstance(a, Tensor) else type(a))
    decay = torch.as_tensor(a, dtype=wide, device=u.device)
    if pos.dim() == 2:
        decay = torch.where(_over_axes(pos == 0, u), 0, decay)
    start = None if state is None or pos.dim() == 1 else state.to(wide)
    if u.shape[1] > 1:
        h = _Scan.apply(decay.expand(u.shape), u.to(wide), start)
    else:
        h = u.to(wide) if start is None else torch.addcmul(u.to(wide), decay, start[:, None])
    y = h if wide.is_complex else h.to(u.dtype)
    return y, None if state is None else h[:, -1]


def maxscan(f: Tensor, i: Tensor, pos: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """`m[t] = max(m[t-1] + f[t], i[t])`, where a document starts with `m = i`.

    f, i: [B, T, *axes]. pos: [T] or [B, T]. state: [B, *axes] or None; what it holds before a document is not read.
    Returns m [B, T, *axes] in the dtype of i, and m[T-1] in at least single precision. Where both sides of the maximum
    are equal, the gradient goes to m[t-1] + f[t].
    """
    wide = _wide(i.dtype, f.dtype)
    starts = (pos == 0).expand(i.shape[:2])
    if state is None:
        starts = starts.index_fill(1, torch.zeros(1, dtype=torch.int64, device=pos.device), True)
        before = torch.zeros_like(i[:, 0], dtype=wide)
    else:
        before = state.to(wide).masked_fill(_over_axes(starts, i)[:, 0], 0)
    m = _MaxScan.apply(f.to(wide).masked_fill(_over_axes(starts, i), -torch.inf), i.to(wide), before)
    return m.to(i.dtype), None if state is None else m[:, -1]


def _wide(*dtypes: torch.dtype | type) -> torch.dtype:
    """The dtype of the recurrence: at least single precision, complex if one of the operands is."""
    wide = torch.float32
    for dtype in dtypes:
        if isinstance(dtype, torch.dtype):
            wide = torch.promote_types(wide, dtype)
        elif dtype is complex:
            wide = wide.to_complex()
    return wide


def _over_axes(flags: Tensor, x: Tensor) -> Tensor:
    """[B, T] flags, with an axis of size one for each feature axis of x [B, T, *axes]."""
    return flags.reshape(flags.shape + (1,) * (x.dim() - 2))


class _Scan(torch.autograd.Function):
    """The linear scan of a, u [B, T, *axes] from h0 [B, *axes] (None: zero)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, u: Tensor, h0: Tensor | None) -> Tensor:
        h = torch.empty_like(u, memory_format=torch.contiguous_format)
        h[:, 0] = u[:, 0] if h0 is None else torch.addcmul(u[:, 0], a[:, 0], h0)
        _recur(LINEAR, a[:, 1:], u[:, 1:], h[:, 0], h[:, 1:])
        ctx.save_for_backward(a, h, h0)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor | None, ...]:
        # The adjoint runs backwards: g[t] = dh[t] + conj(a[t+1]) g[t+1]; du = g, da[t] = g[t] conj(h[t-1]).
        a, h, h0 = ctx.saved_tensors
        a, h = a.conj().resolve_conj(), h.conj().resolve_conj()
        g = torch.empty_like(h)
        g[:, -1] = dh[:, -1]
        _recur(LINEAR, a[:, 1:], dh[:, :-1], g[:, -1], g[:, :-1], reverse=True)
        da = None
        if ctx.needs_input_grad[0]:
            da = torch.empty_like(h)
            da[:, 0] = 0 if h0 is None else g[:, 0] * h0.conj()
            torch.mul(g[:, 1:], h[:, :-1], out=da[:, 1:])
        return da, g, None if h0 is None else g[:, 0] * a[:, 0]


class _MaxScan(torch.autograd.Function):
    """The max-plus scan of f, i [B, T, *axes] from m0 [B, *axes]; f = -inf restarts."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, i: Tensor, m0: Tensor) -> Tensor:
        m = torch.empty_like(i, memory_format=torch.contiguous_format)
        m[:, 0] = torch.maximum(m0 + f[:, 0], i[:, 0])
        _recur(MAX_PLUS, f[:, 1:], i[:, 1:], m[:, 0], m[:, 1:])
        before = torch.cat([m0[:, None], m[:, :-1]], 1)
        ctx.save_for_backward(before + f >= i)
        return m

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Where the past won, the gradient goes on into the past; otherwise it stops at i.
        past = ctx.saved_tensors[0].to(dm.dtype)
        g = torch.empty_like(past)
        g[:, -1] = dm[:, -1]
        _recur(LINEAR, past[:, 1:], dm[:, :-1], g[:, -1], g[:, :-1], reverse=True)
        df = g * past
        return df, g - df, df[:, 0]


class _Recurrence(NamedTuple):
    """`h' = step(h)` with coefficients (a, u), and how the coefficients a of successive steps join."""

    step: Callable[[Tensor, Tensor, Tensor, Tensor], None]  # u, a, h, out
    join: Callable[..., Tensor]  # a, a', out=


def _linear_step(u: Tensor, a: Tensor, h: Tensor, out: Tensor) -> None:
    torch.addcmul(u, a, h, out=out)


def _max_plus_step(u: Tensor, a: Tensor, h: Tensor, out: Tensor) -> None:
    torch.add(h, a, out=out)
    torch.maximum(out, u, out=out)


LINEAR = _Recurrence(_linear_step, torch.mul)
MAX_PLUS = _Recurrence(_max_plus_step, torch.add)


def _recur(kind: _Recurrence, a: Tensor, u: Tensor, h: Tensor, out: Tensor, reverse: bool = False) -> None:
    """Write the states after each step of a, u [B, L, *axes] into out, from the state h [B, *axes] before them.

    In blocks side by side: reading a and u twice costs less than the launches of one operation per step.
    """
    length = u.shape[1]
    block = round((length / 3) ** 0.5) if length >= 16 else 1  # 3 block + length / block operations
    blocks = length // block
    cut = length % block if reverse else blocks * block  # the rest of the walk, shorter than a block, comes last
    main, rest = (slice(cut, None), slice(0, cut)) if reverse else (slice(0, cut), slice(cut, None))
    if block > 1:
        h = _recur_blocks(kind, a[:, main], u[:, main], h, out[:, main], blocks, reverse)
        a, u, out = a[:, rest], u[:, rest], out[:, rest]
    _walk(kind, _steps(a, 1, reverse), _steps(u, 1, reverse), h, _steps(out, 1, reverse))


def _recur_blocks(
    kind: _Recurrence, a: Tensor, u: Tensor, h: Tensor, out: Tensor, blocks: int, reverse: bool
) -> Tensor:
    """All blocks side by side: what each adds, then the state at each start, then the states inside; the last state."""
    decays, inputs, outs = (_steps(x.unflatten(1, (blocks, -1)), 2, reverse) for x in (a, u, out))
    decay = decays[0].clone(memory_format=torch.contiguous_format)
    ends = inputs[0].clone(memory_format=torch.contiguous_format)
    for a_k, u_k in zip(decays[1:], inputs[1:], strict=True):
        kind.step(u_k, a_k, ends, ends)
        kind.join(decay, a_k, out=decay)
    starts = torch.empty_like(ends)
    first, *others = _steps(starts, 1, reverse)
    first.copy_(h)
    _walk(kind, _steps(decay, 1, reverse)[:-1], _steps(ends, 1, reverse)[:-1], first, others)
    _walk(kind, decays, inputs, starts, outs)
    return out[:, 0 if reverse else -1]


def _walk(kind: _Recurrence, a: list[Tensor], u: list[Tensor], h: Tensor, out: list[Tensor]) -> None:
    for a_t, u_t, out_t in zip(a, u, out, strict=True):
        kind.step(u_t, a_t, h, out_t)
        h = out_t


def _steps(x: Tensor, axis: int, reverse: bool) -> list[Tensor]:
    views = x.unbind(axis)
    return list(reversed(views) if reverse else views)
