"""The diagonal scan with the equations around it: `h[t] = a[t] h[t-1] + u[t]`, where gates make a and u of tokens.

On a GPU one kernel computes gates, recurrence and what follows the state, forward and backward, in single precision
from inputs of any; only the inputs and one state in 32 tokens stay for the backward pass. Elsewhere the equations are
operations on whole tensors.
"""
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from kernels.gated_operator import Given, Result, Scan, register, wide_of
from kernels.gated_tiles import SPAN
from kernels.operators import TRITON, runs_fused
from kernels.prev import prev
from kernels.read_out import Read
from kernels.recurrence import linear_scan
from torch import Tensor

if TRITON:
    from kernels.gated_launch import backward, forward


@dataclass(frozen=True)
class Gates:
    """The equations between token inputs x, weights w, numbers and the recurrence, in three forms that say the same.

    plain: `(*x, *w, *numbers, first) -> (a, u)` on whole tensors x [B, T, *axes], w [*axes]; first: where a document
    starts, booleans with B and T or broadcast. device: `(x, w, first) -> (a, u)` on tuples of tiles, a Triton function;
    grad: `(x, w, first, da, du) -> (dx, dw)`; behind the weights their w has the numbers. Both None where
    there is no Triton. What is needed of weights alone is better computed outside. A decay at the start of a document
    is not read. read: what is made of the state, if anything. before: what is read, and given back, is the state before
    each token, zero where a document starts.
    """

    plain: Callable[..., tuple[Tensor, Tensor]]
    device: Any = None
    grad: Any = None
    read: Read | None = None
    before: bool = False
    fused: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.device is not None:
            scan = Scan(_made, forward, backward, _forward_flops, _backward_flops)
            object.__setattr__(self, "fused", register(f"{self.plain.__name__.strip('_')}_scan", self, scan))


def gated_scan(
    gates: Gates,
    x: tuple[Tensor, ...],
    w: tuple[Tensor, ...],
    pos: Tensor,
    state: Tensor | None = None,
    *,
    numbers: tuple[float, ...] = (),
) -> tuple[Tensor, Tensor | None]:
    """`h[t] = a[t] h[t-1] + u[t]` with `a, u = gates(x, w)`, restarting from zero where `pos == 0`.

    x: tokens [B, T, *axes], w: weights [*axes], or what broadcasts to these; or, if any of x has one axis of channels
    and others several, each with all of them. numbers: those that the gates take.
    pos: [T] (whole documents, the state is not read) or [B, T]. state: [B, *axes] or None.
    Returns h (before each token, if the gates say so), or what the gates read out of it, [B, T, *axes], flat if any of
    x was, in the dtype of the first input, and h[T-1] in at least single precision.
    """
    if is_flat(x, w):
        x, w = tuple(each.flatten(2) for each in x), tuple(each.flatten() for each in w)
        y, last = gated_scan(gates, x, w, pos, None if state is None else state.flatten(1), numbers=numbers)
        return y, None if state is None or last is None else last.view(state.shape)
    shape = torch.broadcast_shapes(*(each.shape for each in (*x, *w)))
    if gates.fused is None or not runs_fused(x[0]):
        first = (pos == 0).reshape(pos.shape + (1,) * (len(shape) - 2))
        a, u = gates.plain(*x, *w, *numbers, first)
        h, last = linear_scan(a, u.expand(shape), pos, state)
        h = prev(h, pos, state)[0] if gates.before else h
        y = h if gates.read is None else gates.read.plain(h, *x, *w, *numbers)
        return y.to(x[0].dtype), last
    channels = prod(shape[2:])
    xs = [each.expand(shape).reshape(*shape[:2], channels).contiguous() for each in x]
    ws = [each.expand(shape[2:]).reshape(channels).contiguous() for each in w]
    places = start = None
    if pos.dim() == 2:
        places = pos.expand(shape[:2]).contiguous()
        start = None if state is None else state.to(wide_of([*xs, *ws])).reshape(-1, channels).contiguous()
    y, last, _ = gates.fused(*Given(xs, ws, list(map(float, numbers)), [], places, start, True))
    return y.view(shape), None if state is None else last.view(shape[:1] + shape[2:])


def is_flat(x: tuple[Tensor, ...], w: tuple[Tensor, ...]) -> bool:
    """Whether some token has all channels as one axis where another, or a weight, has several axes."""
    shapes = [*(each.shape[2:] for each in x), *(each.shape for each in w)]
    channels = max(map(prod, shapes))
    return any(each.shape[2:] == (channels,) for each in x) and any(len(shape) > 1 for shape in shapes)


def _made(given: Given) -> Result:
    """The result, the last state and one in SPAN, all empty."""
    batch, time, channels = given.x[0].shape
    last = given.x[0].new_empty((batch, channels), dtype=wide_of([*given.x, *given.w]))
    return Result(torch.empty_like(given.x[0]), last, last.new_empty((batch, -(-time // SPAN), channels)))


def _forward_flops(given: Any) -> int:
    """A multiply-add for each element and token; element-wise work is not counted, here as elsewhere in torch."""
    return 2 * prod(given.x[0])


def _backward_flops(given: Any) -> int:
    """Two multiply-adds: the adjoint, and the gradient of the decay. The states computed again are not counted."""
    return 4 * prod(given.x[0])
