"""Gates around the selective scan, and the operator that runs scan and gates as one kernel."""
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from kernels.operators import TRITON, free_name
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
            object.__setattr__(self, "fused", _register(self.plain.__name__.strip("_"), self))


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
    kept = torch.is_grad_enabled() and any(z is not None and z.requires_grad for z in (*xs, *ws, *weights, start))
    y, last, _ = gates.fused(xs, ws, list(map(float, numbers)), *weights, places, start, kept)
    return y, None if state is None else last


def _register(name: str, gates: SelectiveGates) -> Any:
    """The scan with these gates as an operator of torch, so that autograd, torch.compile and the counters know it."""
    from torch.utils.flop_counter import register_flop_formula  # imports Triton

    @torch.library.custom_op(free_name(f"{name}_selective_scan"), mutates_args=())
    def fused(
        x: list[Tensor],
        w: list[Tensor],
        numbers: list[float],
        A: Tensor,
        B: Tensor,
        C: Tensor,
        pos: Tensor | None,
        start: Tensor | None,
        kept: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        outputs = _outputs(x, w, numbers, A, B, C, pos, start, kept)
        forward(gates, x, w, numbers, A, B, C, pos, start, outputs)
        return outputs

    @torch.library.custom_op(free_name(f"{name}_selective_scan_backward"), mutates_args=())
    def gradients(
        x: list[Tensor],
        w: list[Tensor],
        numbers: list[float],
        A: Tensor,
        B: Tensor,
        C: Tensor,
        pos: Tensor | None,
        carries: Tensor,
        dy: Tensor,
        dlast: Tensor | None,
    ) -> list[Tensor]:
        found: list[Tensor] = backward(gates, x, w, numbers, A, B, C, pos, carries, dy, dlast)
        return found

    def back(ctx: Any, dy: Tensor | None, dlast: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
        count, saved = ctx.inputs, list(ctx.saved_tensors)
        x, w, rest = saved[:count], saved[count:-5], saved[-5:]
        dy = torch.zeros_like(x[0]) if dy is None else dy.contiguous()
        *shares, dA, dB, dC, dstart = gradients(
            x, w, ctx.numbers, *rest, dy, None if dlast is None else dlast.contiguous()
        )
        nothing: Any = None if ctx.numbers else []  # a list of numbers is a leaf to the framework, an empty one is not
        return shares[:count], shares[count:], nothing, dA, dB, dC, None, dstart if ctx.starts else None, None

    fused.register_fake(_outputs)
    gradients.register_fake(_gradients)
    fused.register_autograd(back, setup_context=_keep)
    register_flop_formula(fused._opoverload.overloadpacket)(_forward_flops)
    register_flop_formula(gradients._opoverload.overloadpacket)(_backward_flops)
    return fused


def _outputs(
    x: list[Tensor],
    w: list[Tensor],
    numbers: list[float],
    A: Tensor,
    B: Tensor,
    C: Tensor,
    pos: Tensor | None,
    start: Tensor | None,
    kept: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state, and the states for the backward pass, all empty."""
    batch, time = x[0].shape[:2]
    chunks = (time + CHUNK - 1) // CHUNK if kept else 0
    carries = A.new_empty(batch, chunks, A.shape[-1], A.shape[:-1].numel())
    return torch.empty_like(x[0]), A.new_empty(batch, *A.shape), carries


def _gradients(
    x: list[Tensor],
    w: list[Tensor],
    numbers: list[float],
    A: Tensor,
    B: Tensor,
    C: Tensor,
    pos: Tensor | None,
    carries: Tensor,
    dy: Tensor,
    dlast: Tensor | None,
) -> list[Tensor]:
    return [*(torch.empty_like(z) for z in (*x, *w, A, B, C)), A.new_empty(x[0].shape[0], *A.shape)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, w, ctx.numbers, A, B, C, pos, start, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*x, *w, A, B, C, pos, output[2])
    ctx.inputs, ctx.starts = len(x), start is not None


def _forward_flops(x: list[Any], w: list[Any], numbers: Any, A: Any, *_: Any, **__: Any) -> int:
    """The read-out is a product."""
    return int(2 * prod(x[0]) * A[-1])


def _backward_flops(x: list[Any], w: list[Any], numbers: Any, A: Any, *_: Any, **__: Any) -> int:
    """The gradients of the queries, of the keys and of the input are products."""
    return 3 * _forward_flops(x, w, numbers, A)


def _identity(v: Tensor, dt: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    return dt, v


IDENTITY = SelectiveGates(_identity)
