"""The diagonal scan of a complex state with the equations around it: `h[t] = a[t] h[t-1] + u[t]`.

Real and imaginary parts are real numbers of their own in the equations and in memory. On a GPU one kernel computes
gates, recurrence and what follows the state, forward and backward, as `kernels.gated` does for real states; elsewhere
the equations are operations on whole tensors, and the recurrence is one of complex numbers.
"""
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from kernels.gated_operator import Given, Scan, register, wide_of
from kernels.gated_tiles import SPAN
from kernels.operators import TRITON, runs_fused
from kernels.prev import prev
from kernels.read_out import Read
from kernels.recurrence import linear_scan
from torch import Tensor

if TRITON:
    from kernels.gated_complex_launch import backward, forward


class Parts(NamedTuple):
    """A complex result: its real and its imaginary part."""

    real: Tensor
    imag: Tensor


def joined_parts(parts: Parts) -> Tensor:
    """The complex numbers, in at least single precision."""
    wide = torch.promote_types(parts.real.dtype, torch.float32)
    return torch.complex(parts.real.to(wide), parts.imag.to(wide))


@dataclass(frozen=True)
class ComplexGates:
    """The equations between token inputs x, weights w, numbers and the recurrence, in three forms that say the same.

    plain: `(*x, *w, *numbers, first) -> (a_re, a_im, u_re, u_im)` on whole tensors x [B, T, *axes], w [*axes], where
    what is the same for every token may come as a weight or a number. device: `(x, w, first) -> (a_re, a_im, u_re,
    u_im)` on tuples of tiles, grad: `(x, w, first, da_re, da_im, du_re, du_im) -> (dx, dw)`, as in `kernels.gated`.
    read: what is made of the state, if anything, whose functions take `h_re, h_im` for the state. real: whether that is
    real; otherwise it has two parts, as the state has. before: what is read is the state before each token.
    """

    plain: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]
    device: Any = None
    grad: Any = None
    read: Read | None = None
    real: bool = False
    before: bool = False
    fused: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.device is not None:
            made = partial(_made, self.real)
            scan = Scan(made, forward, backward, _forward_flops, _backward_flops, ComplexResult, ComplexLast)
            object.__setattr__(self, "fused", register(f"{self.plain.__name__.strip('_')}_scan", self, scan))


class ComplexResult(NamedTuple):
    """The real part of the result, or all of it, or going back its gradient; the last state [B, 2, C]; the imaginary
    part, perhaps nothing; what is kept."""

    y: Tensor
    last: Tensor
    imag: Tensor
    kept: Tensor


class ComplexLast(NamedTuple):
    """Besides, for the gradients: those of the last state and of the imaginary part, if there are any."""

    dlast: Tensor | None
    dimag: Tensor | None


def gated_complex_scan(
    gates: ComplexGates,
    x: tuple[Tensor, ...],
    w: tuple[Tensor, ...],
    pos: Tensor,
    state: Tensor | None = None,
    *,
    numbers: tuple[float, ...] = (),
) -> tuple[Tensor | Parts, Tensor | None]:
    """`h[t] = a[t] h[t-1] + u[t]` with complex `a, u = gates(x, w)`, restarting from zero where `pos == 0`.

    x: tokens [B, T, *axes], w: weights [*axes], or what broadcasts to these, all real. numbers: those that the gates
    take. pos: [T] (whole documents, the state is not read) or [B, T]. state: complex [B, *axes] or None.
    Returns the parts of h (before each token, if the gates say so), or of what the gates read out of it, which may be
    real, each [B, T, *axes] in the dtype of the first input, and h[T-1], complex, in at least single precision.
    """
    shape = torch.broadcast_shapes(*(each.shape for each in (*x, *w)))
    wide = wide_of([*x, *w])
    if gates.fused is None or not runs_fused(x[0]):
        first = (pos == 0).reshape(pos.shape + (1,) * (len(shape) - 2))
        a_re, a_im, u_re, u_im = gates.plain(*x, *w, *numbers, first)
        a, u = _complex(a_re, a_im, x[0], wide), _complex(u_re, u_im, x[0], wide)
        h, last = linear_scan(a, u.expand(shape), pos, state)
        h = prev(h, pos, state)[0] if gates.before else h
        found: Any = (h.real, h.imag) if gates.read is None else gates.read.plain(h.real, h.imag, *x, *w, *numbers)
        return found.to(x[0].dtype) if gates.real else Parts(*(part.to(x[0].dtype) for part in found)), last
    channels = prod(shape[2:])
    xs = [each.expand(shape).reshape(*shape[:2], channels).contiguous() for each in x]
    ws = [each.expand(shape[2:]).reshape(channels).contiguous() for each in w]
    places = start = None
    if pos.dim() == 2:
        places = pos.expand(shape[:2]).contiguous()
        start = None if state is None else torch.stack([state.real, state.imag], 1).to(wide).flatten(2)
    y, last, imag, _ = gates.fused(*Given(xs, ws, list(map(float, numbers)), [], places, start, True))
    left = None if state is None else torch.complex(last[:, 0], last[:, 1]).view(shape[:1] + shape[2:])
    return y.view(shape) if gates.real else Parts(y.view(shape), imag.view(shape)), left


def _complex(real: Tensor | float, imag: Tensor | float, like: Tensor, wide: torch.dtype) -> Tensor:
    """Complex numbers, of parts that may be numbers."""
    parts = (torch.as_tensor(part, dtype=wide, device=like.device) for part in (real, imag))
    return torch.complex(*torch.broadcast_tensors(*parts))


def _made(real: bool, given: Given) -> ComplexResult:
    """The parts of the result, the last state and one in SPAN, all empty; of a real result there is one part."""
    y = torch.empty_like(given.x[0])
    batch, time, channels = y.shape
    last = y.new_empty((batch, 2, channels), dtype=wide_of([*given.x, *given.w]))
    imag = y.new_empty(0) if real else torch.empty_like(y)
    return ComplexResult(y, last, imag, last.new_empty((batch, -(-time // SPAN), 2, channels)))


def _forward_flops(given: Any) -> int:
    """A complex multiply-add for each element and token; element-wise work is not counted, here as elsewhere."""
    return 8 * prod(given.x[0])


def _backward_flops(given: Any) -> int:
    """Two complex multiply-adds: the adjoint, and the gradient of the decay."""
    return 16 * prod(given.x[0])
