"""Gates around a scan of outer products with a decay per head, and the operator that runs scan and gates as one kernel.

Without gates (`PLAIN`) the tokens are the values and the log decays themselves.
"""
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from kernels.chunked_arguments import Last, Outer, Result
from kernels.chunked_work import Shapes, backward_flops, forward_flops
from kernels.gated_operator import Given, Scan, register
from kernels.operators import TRITON, wants_gradient
from kernels.read_out import Read
from torch import Tensor

if TRITON:
    from kernels.chunked_launch import backward, forward


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

    def __post_init__(self) -> None:
        if TRITON:
            scan = Scan(
                lambda given: _made(self, given), forward, backward,
                lambda given: forward_flops(given, _shapes(given), per_key=False),
                lambda given: backward_flops(given, _shapes(given), per_key=False),
                Result, Last,
            )  # fmt: skip
            object.__setattr__(self, "fused", register(f"{self.plain.__name__.strip('_')}_chunked_scan", self, scan))


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
    shape, wide = x[0].shape, _wide(x[0])
    xs = [_joined(z, shape, has) for z, has in zip(x, gates.x_values, strict=True)]
    ws = [_joined(z.to(wide), shape[2:], has) for z, has in zip(w, gates.w_values, strict=True)]
    outer = [z.flatten(2, 3).contiguous() for z in (k, q)]
    places = start = None
    if pos.dim() == 2:
        places = pos.expand(shape[:2]).contiguous()
        start, sums = (None if z is None else z.to(wide).flatten(1, 2).contiguous() for z in states)
        outer += [] if sums is None else [sums]
    learns = wants_gradient(*xs, *ws, *outer, start)
    y, last, norm, last_sums, _ = gates.fused(*Given(xs, ws, list(map(float, numbers)), outer, places, start, learns))
    heads = shape[2:4]
    return (
        (y.unflatten(2, heads), norm.unflatten(2, heads) if norm.dim() == 3 else norm),
        (
            None if states[0] is None else last.unflatten(1, heads),
            None if states[1] is None else last_sums.unflatten(1, heads),
        ),
    )


def _joined(z: Tensor, shape: torch.Size, has_values: bool) -> Tensor:
    """A token [.., G, H, V] or a weight with groups and heads as one axis, and without the last if it has no values."""
    if has_values:
        return z.expand(shape).flatten(-3, -2).contiguous()
    return z.expand(*shape[:-1], 1).flatten(-3).contiguous()


def _made(gates: ChunkedGates, given: Given) -> Result:
    """All of what is wanted, empty."""
    v, keys = given.x[0], given.outer[0].shape[3]
    batch, time, heads, values = v.shape
    last = v.new_empty(batch, heads, keys, values, dtype=_wide(v))
    has_norm = gates.normalised and (given.learns or gates.read is None)
    keeps = given.learns and gates.read is not None and gates.read.needs_y
    return Result(
        torch.empty_like(v),
        last,
        last.new_empty((batch, time, heads) if has_norm else 0),
        last.new_empty((batch, heads, keys) if gates.normalised else 0),
        torch.empty_like(v) if keeps else v.new_empty(0),
    )


def _shapes(given: Given) -> Shapes:
    """Of arguments that are shapes."""
    outer = Outer(*given.outer)
    return Shapes(outer.k, given.x[0], outer.q)


def _wide(x: Tensor) -> torch.dtype:
    """The type of states and sums: at least single precision."""
    return torch.promote_types(x.dtype, torch.float32)


def _plain(v: Tensor, log_a: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    return log_a, v


PLAIN = ChunkedGates(_plain, (True, False))
NORMALISED = ChunkedGates(_plain, (True, False), normalised=True)
