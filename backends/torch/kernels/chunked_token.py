"""One token of a scan of outer products on a GPU, as an operator of torch; it has no gradient."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import torch
import triton
import triton.language as tl
from kernels.chunked_token_triton import outer_token
from kernels.operators import free_name
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

TILE = 2048  # elements of the state that a program holds, at most
WARPS = 4


def fused_token(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, state: Tensor, before: bool
) -> tuple[Tensor, Tensor]:
    """See `chunked_scan` and `chunked_key_scan`, whose time is 1 here, pos [B, 1]. Groups and heads become one axis."""
    wide = torch.promote_types(v.dtype, torch.float32)
    k, v, q, log_a = (x[:, 0].flatten(1, 2).contiguous() for x in (k, v, q, log_a.to(wide)))
    places, groups = pos.expand(v.shape[0], 1).contiguous(), state.shape[1:3]
    y, last = _token(log_a, k, v, q, places, state.to(wide).flatten(1, 2).contiguous(), before)
    return y.unflatten(1, groups)[:, None], last.unflatten(1, groups)


@torch.library.custom_op(free_name("outer_token"), mutates_args=())
def _token(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, state: Tensor, before: bool
) -> tuple[Tensor, Tensor]:
    y, last = torch.empty_like(v), torch.empty_like(state)
    batch, heads, keys, values = state.shape
    rows = triton.next_power_of_2(keys)
    columns = min(triton.next_power_of_2(values), max(8, TILE // rows))
    with torch.cuda.device_of(v):
        outer_token[(triton.cdiv(values, columns), heads, batch)](
            log_a, k, v, q, pos, state, y, last, heads, k.shape[1], q.shape[1], keys, values,
            PER_KEY=log_a.dim() == 3, BEFORE=before, BK=rows, BV=columns,
            ACC=tl.float64 if state.dtype == torch.float64 else tl.float32, num_warps=WARPS,
        )  # fmt: skip
    return y, last


@_token.register_fake
def _(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, state: Tensor, before: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v), torch.empty_like(state)


@register_flop_formula(_token._opoverload.overloadpacket)
def _flops(log_a: Any, k: Any, v: Any, q: Any, pos: Any, state: torch.Size, *_: Any, **__: Any) -> int:
    """The read-out is a product; so is the update, of a key and a value."""
    return 4 * state.numel()
