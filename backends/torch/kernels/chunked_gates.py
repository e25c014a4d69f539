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
    None where there is no Triton. normalised: read takes, behind x, what the queries read of the sums of the keys,
    [B, T, G, H, 1].
    """

    plain: Callable[..., tuple[Tensor, Tensor]]
    x_values: tuple[bool, ...]
    w_values: tuple[bool, ...] = ()
    device: Any = None
    grad: Any = None
    read: Read | None = None
    normalised: bool = False
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
    """See `gated_chunked_scan`."""
    (y, _), (last, _) = fused_normalised_scan(gates, x, w, k, q, pos, (state, None), numbers)
    return y, last


def fused_normalised_scan(
    gates: ChunkedGates,
    x: Sequence[Tensor],
    w: Sequence[Tensor],
    k: Tensor,
    q: Tensor,
    pos: Tensor,
    states: tuple[Tensor | None, Tensor | None],
    numbers: Sequence[float] = (),
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor | None, Tensor | None]]:
    """See `gated_normalised_scan`: its result with the normaliser [B, T, G, H], empty unless nothing follows the scan,
    and the last states. Groups and heads become one axis.
    """
    shape, numbers = x[0].shape, list(map(float, numbers))
    wide = torch.promote_types(x[0].dtype, torch.float32)
    xs = [_joined(z, shape, has) for z, has in zip(x, gates.x_values, strict=True)]
    ws = [_joined(z.to(wide), shape[2:], has) for z, has in zip(w, gates.w_values, strict=True)]
    places = start = sums = None
    if pos.dim() == 2:
        places = pos.expand(shape[:2]).contiguous()
        start, sums = (None if z is None else z.to(wide).flatten(1, 2).contiguous() for z in states)
    k, q = (z.flatten(2, 3).contiguous() for z in (k, q))
    wanted = wants_gradient(*xs, *ws, k, q, start, sums)
    if start is not None and shape[1] == 1 and not wanted:
        y, last, norm, last_sums = gates.token(
            [z[:, 0] for z in xs], ws, numbers, k[:, 0], q[:, 0], places, start, sums
        )
        y, norm = y[:, None], norm[:, None]
    else:
        y, last, _, norm, last_sums = gates.fused(xs, ws, numbers, k, q, places, start, sums, wanted)
    read = y.unflatten(2, shape[2:4]), norm.unflatten(2, shape[2:4]) if norm.dim() == 3 else norm
    return read, (
        None if states[0] is None else last.unflatten(1, shape[2:4]),
        None if states[1] is None else last_sums.unflatten(1, shape[2:4]),
    )


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
        sums: Tensor | None,
        kept: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        outputs = made(x, w, numbers, k, q, pos, start, sums, kept)
        forward(gates, x, w, numbers, k, q, pos, start, sums, outputs)
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
        sums: Tensor | None,
        last: Tensor,
        read: Tensor,
        norm: Tensor,
        last_sums: Tensor,
        dy: Tensor,
        dlast: Tensor | None,
        d_norm: Tensor | None,
        d_last_sums: Tensor | None,
    ) -> list[Tensor]:
        made, incoming = (last, read, norm, last_sums), (dy, dlast, d_norm, d_last_sums)
        found: list[Tensor] = backward(gates, x, w, numbers, k, q, pos, start, sums, made, incoming)
        return found

    def made(
        x: list[Tensor],
        w: list[Tensor],
        numbers: list[float],
        k: Tensor,
        q: Tensor,
        pos: Tensor | None,
        start: Tensor | None,
        sums: Tensor | None,
        kept: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """y, the last state, what is read from the state, the normaliser and the last sums of keys, all empty; the last
        three without elements where they are not kept, or not there.
        """
        v, keys = x[0], k.shape[3]
        batch, time, heads, _ = v.shape
        last = v.new_empty(batch, heads, keys, v.shape[3], dtype=_wide(v))
        nothing, has_norm = v.new_empty(0), gates.normalised and (kept or gates.read is None)
        return (
            torch.empty_like(v),
            last,
            torch.empty_like(v) if kept and gates.keeps_read else nothing,
            last.new_empty((batch, time, heads) if has_norm else 0),
            last.new_empty((batch, heads, keys) if gates.normalised else 0),
        )

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, w, ctx.numbers, k, q, pos, start, sums, _ = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*x, *w, k, q, pos, start, sums, *output[1:])
        ctx.inputs = len(x)

    def back(
        ctx: Any,
        dy: Tensor | None,
        dlast: Tensor | None,
        _: Tensor | None,
        d_norm: Tensor | None,
        d_last_sums: Tensor | None,
    ) -> tuple[Any, ...]:
        count, saved = ctx.inputs, list(ctx.saved_tensors)
        x, w, rest = saved[:count], saved[count:-9], saved[-9:]
        last, _, norm, last_sums = rest[-4:]
        if gates.normalised and (dlast is None) != (d_last_sums is None):
            dlast, d_last_sums = _or_zeros(dlast, last), _or_zeros(d_last_sums, last_sums)
        dy = _or_zeros(dy, x[0])
        d_norm = _or_zeros(d_norm, norm) if gates.normalised and gates.read is None else None
        incoming = (None if d is None else d.contiguous() for d in (dy, dlast, d_norm, d_last_sums))
        *shares, dk, dq, dstart, d_sums = gradients(x, w, ctx.numbers, *rest, *incoming)
        nothing = gradient_of_numbers(ctx.numbers)
        starts = (None if given is None else d for given, d in zip(rest[3:5], (dstart, d_sums), strict=True))
        return shares[:count], shares[count:], nothing, dk, dq, None, *starts, None

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


def _or_zeros(x: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if x is None else x


def _gradients(
    x: list[Tensor],
    w: list[Tensor],
    numbers: list[float],
    k: Tensor,
    q: Tensor,
    pos: Tensor | None,
    start: Tensor | None,
    sums: Tensor | None,
    last: Tensor,
    read: Tensor,
    norm: Tensor,
    last_sums: Tensor,
    dy: Tensor,
    dlast: Tensor | None,
    d_norm: Tensor | None,
    d_last_sums: Tensor | None,
) -> list[Tensor]:
    return [torch.empty_like(z) for z in (*x, *w, k, q, last, last_sums)]


def _wide(x: Tensor) -> torch.dtype:
    """The type of states and sums: at least single precision."""
    return torch.promote_types(x.dtype, torch.float32)


def _plain(v: Tensor, log_a: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    return log_a, v


PLAIN = ChunkedGates(_plain, (True, False))
NORMALISED = ChunkedGates(_plain, (True, False), normalised=True)
