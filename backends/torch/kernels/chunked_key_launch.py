"""The launches of the scan of outer products with a decay per key: tiles, and sums over programs."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import torch
from kernels.chunked_key_triton import chunked_key_backward_keys, chunked_key_backward_queries, chunked_key_forward
from kernels.chunked_launch import SMALLEST, grid_of, over_programs, sizes_of, stages_of, tile_constants, warps_of
from torch import Tensor


def key_forward(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor | None, start: Tensor | None, y: Tensor, last: Tensor
) -> None:
    """Fill y [B, T, heads, V] and the last state [B, heads, K, V]; log_a: [B, T, heads, K]."""
    constants = _constants(k, v, q, pos, start)
    with torch.cuda.device_of(v):
        chunked_key_forward[grid_of(v, constants)](
            log_a, k, v, q, pos, start, y, last, *sizes_of(k, v, q), **constants,
            num_warps=warps_of(constants), num_stages=stages_of(constants),
        )  # fmt: skip


def key_backward(
    log_a: Tensor,
    k: Tensor,
    v: Tensor,
    q: Tensor,
    pos: Tensor | None,
    start: Tensor | None,
    last: Tensor,
    dy: Tensor,
    dlast: Tensor | None,
) -> list[Tensor]:
    """The gradients of log_a, k, v, q and of the state that came in."""
    dv, dstart = torch.empty_like(v), torch.empty_like(last)
    constants = _constants(k, v, q, pos, start)
    grid, options = grid_of(v, constants), {"num_warps": warps_of(constants), "num_stages": stages_of(constants)}
    dk, dq = (dstart.new_empty(grid[0], *v.shape[:3], k.shape[-1]) for _ in range(2))
    with torch.cuda.device_of(v):
        chunked_key_backward_queries[grid](
            log_a, k, v, q, pos, start, dy, dq, *sizes_of(k, v, q), **constants, **options
        )  # fmt: skip
        constants["CONTINUED"] = dlast is not None
        chunked_key_backward_keys[grid](
            log_a, k, v, q, pos, dlast, dy, dk, dv, dstart, *sizes_of(k, v, q), **constants, **options
        )  # fmt: skip
    dk, dq = dk.sum(0, keepdim=True), dq.sum(0, keepdim=True)
    shares = _over_heads(q, v) * dq[0] - _over_heads(k, v) * dk[0]
    dlog = shares.flip(1).cumsum(1).flip(1)
    if dlast is not None:  # the last state is one more query
        dlog = dlog + (dlast * last).sum(-1)[:, None]
    if pos is not None:
        dlog = dlog.masked_fill((pos == 0)[..., None, None], 0)
    return [dlog.to(log_a.dtype), over_programs(dk, k), dv, over_programs(dq, q), dstart]


def _constants(k: Tensor, v: Tensor, q: Tensor, pos: Tensor | None, start: Tensor | None) -> dict[str, Any]:
    return tile_constants(k, v, q, pos, start)[1] | {"Q": SMALLEST}


def _over_heads(x: Tensor, v: Tensor) -> Tensor:
    """Keys or queries for every head."""
    return x.repeat_interleave(v.shape[2] // x.shape[2], 2)
