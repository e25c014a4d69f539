"""The launches of a token of attention with composed heads: one if there are many sequences, else three."""
# mypy: disable-error-code="no-untyped-call"

from typing import Any

import torch
import triton
from kernels.composed_arguments import Given, reads
from kernels.composed_launch import EVERY, common_of
from kernels.composed_tiles import token_tile
from kernels.composed_token_triton import composed_token, composed_token_sums
from kernels.operators import arch_of
from torch import Tensor

BLOCK = 256  # sums of a program


def token(composed: Any, given: Given, ring: int, y: Tensor) -> None:
    """Fill y [B, 1, heads, value] of the queries of a token, given what `Ring` says."""
    q, k, v = given.q, given.k, given.v
    (batch, _, heads, _), count, value = q.shape, k.shape[1], v.shape[3]
    sizes, constants = common_of(composed, given)
    tile = token_tile(sizes, count, batch, arch_of(q))
    first, second = reads(composed, given)
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = q.new_empty((batch, heads, count), dtype=wide)
    lse = q.new_empty((batch, tile.splits, heads), dtype=wide)
    parts = y if tile.splits == 1 else q.new_empty((batch, tile.splits, heads * value), dtype=wide)
    arrays = (q, k, v, *first, *second, given.pos, scores, lse, parts, count, ring, given.window or EVERY)

    def start(*, scores: bool, values: bool) -> None:
        told = {**constants, **tile.constants, "SCORES": scores, "VALUES": values, "num_warps": tile.warps}
        composed_token[tile.splits, batch](*arrays, **told)

    with torch.cuda.device_of(q):
        if tile.splits == 1:
            start(scores=True, values=True)
            return
        start(scores=True, values=False)
        start(scores=False, values=True)
        blocks = triton.cdiv(heads * value, BLOCK)
        composed_token_sums[blocks, batch](parts, y, heads * value, SPLITS=tile.splits, BLOCK=BLOCK, num_warps=4)
