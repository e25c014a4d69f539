"""Gates around the selective scan, and the operator that runs scan and gates as one kernel."""
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from kernels.gated_operator import Given, Result, Scan, register
from kernels.operators import TRITON, wants_gradient
from kernels.read_out import Read
from kernels.selective_groups import of_groups
from torch import Tensor

if TRITON:
    from kernels.selective_launch import backward, forward

CHUNK = 32  # selective_launch.py: tokens between the states kept for the backward pass


@dataclass(frozen=True)
class SelectiveGates:
    """Gates `dt, v = plain(*x, *w, *numbers, first)` in front of a selective scan, and perhaps a read-out behind it.

    plain works on whole tensors x [B, T, *axes], w [*axes]; first: where a document starts, booleans with B and T or
    broadcast. The device functions work on tiles: device `(x, w, first) -> (dt, v)`, grad `(x, w, first, d_dt, d_v) ->
    (dx, dw)`, with the numbers behind the weights; None for tokens (v, dt) as they are, and where there is no Triton.
    """

    plain: Callable[..., tuple[Tensor, Tensor]]
    device: Any = None
    grad: Any = None
    read: Read | None = None
    fused: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        if TRITON:
            scan = Scan(_made, forward, backward, _forward_flops, _backward_flops)
            object.__setattr__(self, "fused", register(f"{self.plain.__name__.strip('_')}_selective_scan", self, scan))


def fused_scan(
    gates: SelectiveGates,
    x: Sequence[Tensor],
    w: Sequence[Tensor],
    A: Tensor,
    B: Tensor,
    C: Tensor,
    pos: Tensor,
    state: Tensor | None,
    numbers: Sequence[float],
) -> tuple[Tensor, Tensor | None]:
    """See `gated_selective_scan`."""
    wide = torch.promote_types(x[0].dtype, torch.float32)
    shape = torch.broadcast_shapes(*(z.shape for z in (*x, *w)), A.shape[:-1])
    axes = shape[2:]
    xs = [z.expand(shape).contiguous() for z in x]
    ws = [z.to(wide).expand(axes).contiguous() for z in w]
    places = start = None
    if pos.dim() == 2:
        places = pos.expand(shape[:2]).contiguous()
        start = None if state is None else state.to(wide).contiguous()
    weights = [A.to(wide).expand(*axes, -1).contiguous(), *(of_groups(z, axes).contiguous() for z in (B, C))]
    learns = wants_gradient(*xs, *ws, *weights, start)
    y, last, _ = gates.fused(*Given(xs, ws, list(map(float, numbers)), weights, places, start, learns))
    return y, None if state is None else last


def _made(given: Given) -> Result:
    """y, the last state, and the states for the backward pass, all empty."""
    (batch, time, *_), A = given.x[0].shape, given.outer[0]
    chunks = (time + CHUNK - 1) // CHUNK if given.learns else 0
    carries = A.new_empty(batch, chunks, A.shape[-1], A.shape[:-1].numel())
    return Result(torch.empty_like(given.x[0]), A.new_empty(batch, *A.shape), carries)


def _forward_flops(given: Any) -> int:
    """The read-out is a product."""
    return int(2 * prod(given.x[0]) * given.outer[0][-1])


def _backward_flops(given: Any) -> int:
    """The gradients of the queries, of the keys and of the input are products."""
    return 3 * _forward_flops(given)


def _identity(v: Tensor, dt: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    return dt, v


IDENTITY = SelectiveGates(_identity)
