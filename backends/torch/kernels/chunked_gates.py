"""Gates around a scan of outer products with a decay per head, and the operator that runs scan and gates as one kernel.

Without gates (`PLAIN`) the tokens are the values and the log decays themselves.
"""
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from kernels.chunked_work import Shapes, backward_flops, forward_flops
from kernels.operators import TRITON, free_name, gradient_of_numbers, wants_gradient
from kernels.read_out import Read
from torch import Tensor

if TRITON:
    from kernels.chunked_launch import backward, forward
    from kernels.chunked_token import gated_token


@dataclass(frozen=True)
class ChunkedGates:
    """Gates `log_a, v = plain(*x, *w, *numbers, first)` in front of a scan of outer products, and perhaps one behind.

    plain works on whole tensors x [B, T, G, H, V], w [G, H, V]; first: where a document starts, booleans with B and T
    or broadcast; log_a: [B, T, G, H, 1], not positive. x_values, w_values: which of x and w have the axis of the
    values, 1 in the others; x[0] has all axes. The device functions work on tiles: device
    `(x, w, first) -> (log_a, v)`, grad `(x, w, first, dlog_a, dv) -> (dx, dw)`, with the numbers behind the weights;
    None where there is no Triton.
    """

    plain: Callable[..., tuple[Tensor, Tensor]]
    x_values: tuple[bool, ...]
    w_values: tuple[bool, ...] = ()
    device: Any = None
    grad: Any = None
    read: Read | None = None
    fused: Any = field(init=False, default=None)
    token: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        if TRITON:
            name = self.plain.__name__.strip("_")
            object.__setattr__(self, "fused", _register(name, self))
            object.__setattr__(self, "token", gated_token(name, self))

    @property
    def keeps_read(self) -> bool:
        """Whether the backward pass needs what was read from the state."""
        return self.read is not None and self.read.needs_y


def fused_gated_scan(
    gates: ChunkedGates,
    x: Sequence[Tensor],
    w: Sequence[Tensor],
    k: Tensor,
    q: Tensor,
    pos: Tensor,
    state: Tensor | None,
    numbers: Sequence[float] = (),
) -> tuple[Tensor, Tensor | None]:
    """See `gated_chunked_scan`. Groups and heads become one axis."""
    shape = x[0].shape
    wide = torch.promote_types(x[0].dtype, torch.float32)
    xs = [_joined(z, shape, has) for z, has in zip(x, gates.x_values, strict=True)]
    ws = [_joined(z.to(wide), shape[2:], has) for z, has in zip(w, gates.w_values, strict=True)]
    places = start = None
    if pos.dim() == 2:
        places = pos.expand(shape[:2]).contiguous()
        start = None if state is None else state.to(wide).flatten(1, 2).contiguous()
    k, q = (z.flatten(2, 3).contiguous() for z in (k, q))
    if start is not None and shape[1] == 1 and not wants_gradient(*xs, *ws, k, q, start):
        y, last = gates.token([z[:, 0] for z in xs], ws, list(map(float, numbers)), k[:, 0], q[:, 0], places, start)
        return y.unflatten(1, shape[2:4])[:, None], last.unflatten(1, shape[2:4])
    kept = gates.keeps_read and wants_gradient(*xs, *ws, k, q, start)
    y, last, _ = gates.fused(xs, ws, list(map(float, numbers)), k, q, places, start, kept)
    return y.unflatten(2, shape[2:4]), None if state is None else last.unflatten(1, shape[2:4])


def _joined(z: Tensor, shape: torch.Size, has_values: bool) -> Tensor:
    """A token [.., G, H, V] or a weight with groups and heads as one axis, and without the last if it has no values."""
    if has_values:
        return z.expand(shape).flatten(-3, -2).contiguous()
    return z.expand(*shape[:-1], 1).flatten(-3).contiguous()


def _register(name: str, gates: ChunkedGates) -> Any:
    """The scan with these gates as an operator of torch, so that autograd, torch.compile and the counters know it."""
    from torch.utils.flop_counter import register_flop_formula  # imports Triton

    @torch.library.custom_op(free_name(f"{name}_chunked_scan"), mutates_args=())
    def fused(
        x: list[Tensor],
        w: list[Tensor],
        numbers: list[float],
        k: Tensor,
        q: Tensor,
        pos: Tensor | None,
        start: Tensor | None,
        kept: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        outputs = made(x, w, numbers, k, q, pos, start, kept)
        forward(gates, x, w, numbers, k, q, pos, start, outputs)
        return outputs

    @torch.library.custom_op(free_name(f"{name}_chunked_scan_backward"), mutates_args=())
    def gradients(
        x: list[Tensor],
        w: list[Tensor],
        numbers: list[float],
        k: Tensor,
        q: Tensor,
        pos: Tensor | None,
        start: Tensor | None,
        last: Tensor,
        read: Tensor,
        dy: Tensor,
        dlast: Tensor | None,
    ) -> list[Tensor]:
        found: list[Tensor] = backward(gates, x, w, numbers, k, q, pos, start, last, read, dy, dlast)
        return found

    def made(
        x: list[Tensor],
        w: list[Tensor],
        numbers: list[float],
        k: Tensor,
        q: Tensor,
        pos: Tensor | None,
        start: Tensor | None,
        kept: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """y, the last state, and what is read from the state if it is kept; all empty."""
        v = x[0]
        last = v.new_empty(v.shape[0], v.shape[2], k.shape[3], v.shape[3], dtype=_wide(v))
        return torch.empty_like(v), last, torch.empty_like(v) if kept else v.new_empty(0)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, w, ctx.numbers, k, q, pos, start, _ = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*x, *w, k, q, pos, start, *output[1:])
        ctx.inputs = len(x)

    def back(ctx: Any, dy: Tensor | None, dlast: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
        count, saved = ctx.inputs, list(ctx.saved_tensors)
        x, w, rest = saved[:count], saved[count:-6], saved[-6:]
        dy = torch.zeros_like(x[0]) if dy is None else dy.contiguous()
        found = gradients(x, w, ctx.numbers, *rest, dy, None if dlast is None else dlast.contiguous())
        *shares, dk, dq, dstart = found
        nothing = gradient_of_numbers(ctx.numbers)
        return shares[:count], shares[count:], nothing, dk, dq, None, None if rest[3] is None else dstart, None

    fused.register_fake(made)
    gradients.register_fake(_gradients)
    fused.register_autograd(back, setup_context=keep)

    def counted(x: list[Any], w: list[Any], numbers: Any, k: Any, q: Any, *_: Any, **__: Any) -> Shapes:
        return Shapes(k, x[0], q)

    register_flop_formula(fused._opoverload.overloadpacket)(
        lambda *shapes, **named: forward_flops(counted(*shapes, **named), per_key=False)
    )
    register_flop_formula(gradients._opoverload.overloadpacket)(
        lambda *shapes, **named: backward_flops(counted(*shapes, **named), per_key=False)
    )
    return fused


def _gradients(
    x: list[Tensor],
    w: list[Tensor],
    numbers: list[float],
    k: Tensor,
    q: Tensor,
    pos: Tensor | None,
    start: Tensor | None,
    last: Tensor,
    read: Tensor,
    dy: Tensor,
    dlast: Tensor | None,
) -> list[Tensor]:
    return [torch.empty_like(z) for z in (*x, *w, k, q, last)]


def _wide(x: Tensor) -> torch.dtype:
    """The type of states and sums: at least single precision."""
    return torch.promote_types(x.dtype, torch.float32)


def _plain(v: Tensor, log_a: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    return log_a, v


PLAIN = ChunkedGates(_plain, (True, False))
