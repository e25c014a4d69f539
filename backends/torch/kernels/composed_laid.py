"""The launches of attention with so many composed heads that their pairs are laid out in memory, block by block."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import torch
import triton
from kernels.composed_arguments import Given, Read, in_order
from kernels.composed_laid_back_triton import laid_back_keys, laid_back_queries
from kernels.composed_laid_triton import laid_forward
from kernels.composed_launch import Call, call_of, ends_of
from kernels.composed_tiles import laid_tile
from kernels.composed_triton import LOWEST
from torch import Tensor


def forward_laid(composed: Any, given: Given, y: Tensor, lse: Tensor) -> None:
    """Fill y [B, T, heads, value] and lse [B, heads, T], `LOWEST` for a query without keys."""
    q, k, v, pos = given.q, given.k, given.v, given.pos
    call = call_of(composed, given, backward=False)
    first, second = call.reads
    grid, told = _grid(call, q.shape[1])
    sums = torch.zeros_like(y, dtype=lse.dtype)
    lse.fill_(LOWEST.value)
    with torch.cuda.device_of(q):
        laid_forward[grid](
            q, k, v, *first, *second, pos, lse, sums, _pairs(lse, grid, told), *call.numbers, **told
        )  # fmt: skip
    y.copy_(sums)


def backward_laid(composed: Any, given: Given, lse: Tensor, dy: Tensor) -> list[Tensor]:
    """The gradients of q, k, v, tokens and weights."""
    q, k, v, pos = given.q, given.k, given.v, given.pos
    call = call_of(composed, given, backward=True)
    first, second = call.reads
    arrays = (q, k, v, dy, *first, *second, pos)
    wide = lse.dtype
    dq, dk, dv = (torch.zeros_like(x, dtype=wide) for x in (q, k, v))
    delta = torch.zeros_like(lse)
    dqs, dks = (
        [tuple(torch.zeros_like(x, dtype=wide) for x in getattr(each, side)) for each in call.reads]
        for side in ("queries", "keys")
    )
    with torch.cuda.device_of(q):
        grid, told = _grid(call, q.shape[1])
        dws = [tuple(lse.new_empty(grid[0] * grid[2], *w.shape[-2:]) for w in each.weights) for each in call.reads]
        laid_back_queries[grid](
            *arrays, lse, delta, dq, *dqs, *dws, _pairs(lse, grid, told), _pairs(lse, grid, told), *call.numbers, **told
        )
        grid, told = _grid(call, k.shape[1])
        ends = None if pos is None else ends_of(pos, k.shape[1], told["SIZE"])
        laid_back_keys[grid](
            *arrays, ends, lse, delta, dk, dv, *dks, _pairs(lse, grid, told), _pairs(lse, grid, told),
            *call.numbers, **told,
        )  # fmt: skip
    before, after = (Read(*each, ()) for each in zip(dqs, dks, strict=True))
    tokens = [*in_order(composed.before, before), *in_order(composed.after, after)]
    weights = [share.sum(0) for each in dws for share in each]
    inputs = (q, k, v, *given.tokens, *given.weights)
    return [d.reshape(x.shape).to(x.dtype) for d, x in zip((dq, dk, dv, *tokens, *weights), inputs, strict=True)]


def _grid(call: Call, tokens: int) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """The grid (blocks of tokens, 1, sequences), and the constants."""
    tile = laid_tile(call.sizes, call.arch)
    told = {**call.constants, **tile.constants, "num_warps": tile.warps}
    return (triton.cdiv(tokens, tile.size), 1, call.batch), told


def _pairs(lse: Tensor, grid: tuple[int, int, int], told: dict[str, Any]) -> Tensor:
    """Memory for the pairs of a block of every program."""
    return lse.new_empty(grid[0] * grid[2], told["H"], told["SIZE"], told["SIZE"])
