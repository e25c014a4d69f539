"""Gates around a scan of outer products with a decay per key, and the operator that runs scan and gates as one kernel.

Without gates (`PLAIN`) the tokens are values, log decays, keys and queries themselves.
"""
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from kernels.chunk_sizes import key_parts
from kernels.chunked_work import Shapes, backward_flops, forward_flops
from kernels.gated_operator import Given, Result, Scan, register
from kernels.operators import TRITON, wants_gradient
from kernels.read_out import Read
from torch import Tensor

if TRITON:
    from kernels.chunked_key_launch import key_backward, key_forward


@dataclass(frozen=True)
class ChunkedKeyGates:
    """Gates `log_a, k, v, q = plain(*x, *w, *numbers, first)` in front of a scan, and perhaps one behind.

    plain works on whole tensors x [B, T, G, H, axis], w [G, H, axis]; first: where a document starts, booleans with B
    and T or broadcast; log_a: not positive. x_of, w_of: what each of x and w is of, "value", "key" or "head", which is
    their last axis (1 of a head); log_a, k and q are of the keys; x[0] is of the values, for all heads. The device
    functions work on tiles: device `(x, w, first) -> (log_a, k, v, q)`, grad `(x, w, first, dlog_a, dk, dv, dq) -> (dx,
    dw)`, with the numbers behind the weights; None where there is no Triton. before: what is read is the state before
    the update; bonus: with the product of v and one more thing that plain and device give, grad being handed its
    derivative too.
    """

    plain: Callable[..., tuple[Tensor, ...]]
    x_of: tuple[str, ...]
    w_of: tuple[str, ...] = ()
    device: Any = None
    grad: Any = None
    read: Read | None = None
    before: bool = False
    bonus: bool = False
    fused: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        if TRITON:
            scan = Scan(
                lambda given: _made(self, given), key_forward, key_backward,
                lambda given: forward_flops(given, _shapes(self, given), per_key=True),
                lambda given: backward_flops(given, _shapes(self, given), per_key=True),
            )  # fmt: skip
            name = f"{self.plain.__name__.strip('_')}_chunked_key_scan"
            object.__setattr__(self, "fused", register(name, self, scan))


def fused_key_scan(
    gates: ChunkedKeyGates,
    x: Sequence[Tensor],
    w: Sequence[Tensor],
    pos: Tensor,
    state: Tensor | None,
    numbers: Sequence[float] = (),
) -> tuple[Tensor, Tensor | None]:
    """See `gated_chunked_key_scan`. Groups and heads become one axis."""
    shape = x[0].shape
    wide = torch.promote_types(x[0].dtype, torch.float32)
    xs = [_tokens(z, shape, of) for z, of in zip(x, gates.x_of, strict=True)]
    ws = [_weight(z.to(wide), shape[2:4], of) for z, of in zip(w, gates.w_of, strict=True)]
    places = start = None
    if pos.dim() == 2:
        places = pos.expand(shape[:2]).contiguous()
        start = None if state is None else state.to(wide).flatten(1, 2).contiguous()
    learns = wants_gradient(*xs, *ws, start)
    y, last, _ = gates.fused(*Given(xs, ws, list(map(float, numbers)), [], places, start, learns))
    return y.unflatten(2, shape[2:4]), None if state is None else last.unflatten(1, shape[2:4])


def _tokens(z: Tensor, shape: torch.Size, of: str) -> Tensor:
    """A token [B, T, G, H, axis] with groups and heads as one axis, in which heads in a row may share one; without the
    last axis if it is of a head.
    """
    (groups, heads), (all_groups, all_heads) = z.shape[2:4], shape[2:4]
    if of == "value" or (groups < all_groups and heads == all_heads > 1):
        groups, heads = all_groups, all_heads
    whole = z.expand(*shape[:2], groups, heads, z.shape[-1]).flatten(2, 3)
    return (whole.flatten(-2) if of == "head" else whole).contiguous()


def _weight(z: Tensor, heads: torch.Size, of: str) -> Tensor:
    """A weight [G, H, axis] likewise, for every head."""
    whole = z.expand(*heads, z.shape[-1]).flatten(0, 1)
    return (whole.flatten() if of == "head" else whole).contiguous()


def _made(gates: ChunkedKeyGates, given: Given) -> Result:
    """y, the last state, and what is read from the state if it is kept; all empty."""
    v = given.x[0]
    keys = _keys(gates, given)
    last = v.new_empty(v.shape[0], v.shape[2], keys, v.shape[3], dtype=torch.promote_types(v.dtype, torch.float32))
    keeps = given.learns and gates.read is not None and gates.read.needs_y
    return Result(torch.empty_like(v), last, torch.empty_like(v) if keeps else v.new_empty(0))


def _keys(gates: ChunkedKeyGates, given: Given) -> int:
    """How many keys a head has: of tokens [B, T, heads, K], or of weights [heads, K]; of these or of their shapes."""
    both = zip((*given.x, *given.w), (*gates.x_of, *gates.w_of), strict=True)
    return int(next(getattr(z, "shape", z)[-1] for z, of in both if of == "key"))


def _shapes(gates: ChunkedKeyGates, given: Given) -> Shapes:
    """Of arguments that are shapes; parts of the keys are heads of their own."""
    batch, time, heads, values = given.x[0]
    parts, keys = key_parts(_keys(gates, given))
    k = (batch, time, parts * heads, keys)
    return Shapes(k, (*k[:3], values), k)


def _plain(v: Tensor, log_a: Tensor, k: Tensor, q: Tensor, first: Tensor) -> tuple[Tensor, ...]:
    return log_a, k, v, q


PLAIN = ChunkedKeyGates(_plain, ("value", "key", "key", "key"))
PLAIN_BEFORE = ChunkedKeyGates(_plain, ("value", "key", "key", "key"), before=True)
PER_HEAD_BEFORE = ChunkedKeyGates(_plain, ("value", "head", "key", "key"), before=True)
