"""Pair programs in which a query sees only the keys of its own bucket: tokens in the order of buckets, tile by tile.

def program(rows, same, q, k, v):
    s = torch.einsum("bqhd,bkhd->bhqk", rows.query_tokens(q), rows.key_tokens(k))
    p = rows.softmax(s, rows.causal()[..., None, :, :] & same)
    return torch.einsum("bhqk,bkhd->bqhd", p, rows.key_tokens(v))

y = over_buckets(program, keys, (bucket, bucket_keys), (q,), (k, v), rounds=True)  # [B, T, heads, dim]

Sorted by bucket (before that by document, after that by time), the keys of a tile of queries lie in the few tiles that
its buckets reach into. All of them are visited, however uneven buckets are; no pair is kept.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from kernels.order import Order, orders_of
from kernels.pairs import Keys, Rows, over_rows
from torch import Tensor
from torch.autograd.function import once_differentiable

Program = Callable[..., Tensor]
Tensors = tuple[Tensor, ...]
Sums = tuple[Tensor, Tensor, Tensor]


def over_buckets(
    program: Program,
    keys: Keys,
    buckets: tuple[Tensor, Tensor],
    queries: Tensors,
    tokens: Tensors,
    *,
    rounds: bool = False,
    before: int | None = None,
    after: int | None = 0,
    block: int = 64,
    short: int | None = None,
) -> Tensor:
    """The values [B, T, *lanes, *axes] of a program that sees no pair outside of `same`.

    program: `(rows, same, *queries, *tokens) -> value` with one softmax over keys, which the value is linear in; no
    other names of its are tensors that want a gradient. buckets: whole numbers of each query [B, T, *lanes] and key [B,
    S, *lanes], or of several `rounds`, the last axis: two tokens meet where they are equal in one of them. queries [B,
    T, *lanes, *axes], tokens [B, S, *lanes, *axes]: what the program reads of queries and of keys. It mixes nothing
    between lanes, and runs with lanes of size one. `same` [B, *lanes, Tq, Tk]: whether two tokens meet. before, after:
    as of `over_rows`, which runs up to `short` tokens (None: four tiles for each round, as long as sorting takes) and
    what continues a sequence. More tokens wait for the device once.
    """
    if not rounds:
        buckets = (buckets[0][..., None], buckets[1][..., None])
    (codes, others), time = buckets, keys.pos.shape[-1]
    short = 4 * block * codes.shape[-1] if short is None else short
    if keys.ring is not None or keys.count != time or time <= short:

        def dense(rows: Rows) -> Tensor:
            same = (rows.queries(codes) == rows.keys(others)).any(-3)
            return program(rows, same, *queries, *tokens)

        return over_rows(dense, keys, before=before, after=after)
    lanes = codes.shape[2:-1]
    pos = keys.pos.expand(len(codes), -1).repeat_interleave(prod(lanes), 0)
    orders = orders_of(_folded(codes, lanes, 0), pos, keys.pos.dim() == 2, block, after != 0)
    folded = (_folded(x, lanes, len(lanes)) for x in (*queries, *tokens))
    y = _Sorted.apply(program, orders, len(lanes), len(queries), *folded)  # type: ignore[no-untyped-call]
    return y.reshape(len(codes), *lanes, time, *y.shape[2 + len(lanes) :]).movedim(1 + len(lanes), 1)


def _folded(x: Tensor, lanes: Sequence[int], kept: int) -> Tensor:
    """[B, T, *lanes, *axes] -> [B lanes, T, *axes], with so many axes of size one before the axes."""
    time, axes = x.shape[1], x.shape[2 + len(lanes) :]
    return x.movedim(1, 1 + len(lanes)).reshape(-1, time, *(1,) * kept, *axes)


class Tile(Rows):  # type: ignore[misc]
    """Tiles of queries against tiles of keys, [tiles, ...]: what a program knows of them, and its softmax in parts.

    The softmax divides by nothing: it takes out the largest score, or `known` [tiles, *axes, Tq], and notes what it
    took out as `top` and the sums as `total`.
    """

    def __init__(self, order: Order, queries: Tensor, keys: Tensor, known: Tensor | None = None) -> None:
        self.distance = order.time[queries][..., None] - order.time[keys][:, None]
        self.query_pos, self.key_pos = order.pos[queries], order.pos[keys]
        later = torch.where(self.distance >= 0, self.query_pos[..., None], self.key_pos[:, None])
        self.together = self.distance.abs() <= later
        self.known = known

    def query_tokens(self, x: Tensor) -> Tensor:
        """What is handed over is of these queries alone."""
        return x

    def key_tokens(self, x: Tensor) -> Tensor:
        """What is handed over is of these keys alone."""
        return x

    def softmax(self, scores: Tensor, where: Tensor | None = None) -> Tensor:
        """exp(scores - top) in the dtype of the scores; zero outside of the document and the mask."""
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        wide = wide.masked_fill(~self._seen(scores, where), -torch.inf)
        self.top = _least(wide).maximum(wide.detach().amax(-1)) if self.known is None else self.known
        p = torch.exp(wide - self.top[..., None])
        self.total = p.sum(-1)
        return p.to(scores.dtype)


def _least(x: Tensor) -> Tensor:
    """What is less than any score, and can be subtracted from itself."""
    return torch.full((), torch.finfo(x.dtype).min / 2, dtype=x.dtype, device=x.device)


class _Sorted(torch.autograd.Function):
    """The program on the tiles of every round; sums of exponentials are joined by their largest score."""

    @staticmethod
    def forward(ctx: Any, program: Program, orders: list[Order], lanes: int, queries: int, *tokens: Tensor) -> Tensor:
        made = [_sums(program, order, lanes, tokens[:queries], tokens[queries:]) for order in orders]
        (value, top, total), dtype = made[0]
        for more, _ in made[1:]:
            value, top, total = _joined((value, top, total), more)
        total = total.clamp(min=torch.finfo(total.dtype).tiny)  # without any key all sums are zero
        value = value / _beside(total, value)
        ctx.program, ctx.orders, ctx.lanes, ctx.queries = program, orders, lanes, queries
        ctx.save_for_backward(*tokens, value, top + total.log())
        return value.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Any:
        *tokens, value, known = ctx.saved_tensors
        slope = slope.to(value.dtype)
        share = (slope * value).flatten(known.dim()).sum(-1) if value.dim() > known.dim() else slope * value
        slopes: dict[int, Tensor] = {}
        for order in ctx.orders:
            for index, more in _slopes(ctx, order, tokens, known, slope, share).items():
                slopes[index] = slopes[index] + more if index in slopes else more
        found = (slopes[i].to(x.dtype) if i in slopes else None for i, x in enumerate(tokens))
        return None, None, None, None, *found


def _sums(program: Program, order: Order, lanes: int, queries: Tensors, tokens: Tensors) -> tuple[Sums, torch.dtype]:
    """Of one round: what is read out, the largest score and the sum, [L, T, ...]; the program's own type."""
    left, right = ([order.sorted(x) for x in each] for each in (queries, tokens))
    whole: list[Tensor] = []
    for some, others in order.steps():
        tile = Tile(order, some, others)
        same = order.same(some, others, lanes)
        here = (*(x.index_select(0, some) for x in left), *(x.index_select(0, others) for x in right))
        value = program(tile, same, *here)
        part = value.to(tile.total.dtype), tile.top.movedim(-1, 1), tile.total.movedim(-1, 1)
        if not whole:
            whole = [x.new_zeros(len(order.time), *x.shape[1:]) for x in part]
            whole[1] += _least(whole[1])
        before, top, total = (x.index_select(0, some) for x in whole)
        for x, new in zip(whole, _joined((before, top, total), part), strict=True):
            x.index_copy_(0, some, new)
    return (order.unsorted(whole[0]), order.unsorted(whole[1]), order.unsorted(whole[2])), value.dtype


def _slopes(
    ctx: Any, order: Order, tokens: Sequence[Tensor], known: Tensor, slope: Tensor, share: Tensor
) -> dict[int, Tensor]:
    """What one round adds to the derivatives by the tokens that have one, [L, T, ...]."""
    kept = [order.sorted(x) for x in tokens]
    known, slope, share = (order.sorted(x) for x in (known, slope, share))
    wanted = [i for i, x in enumerate(tokens) if x.is_floating_point()]
    found = {i: torch.zeros_like(kept[i], dtype=known.dtype) for i in wanted}
    for some, others in order.steps():
        places = [some if i < ctx.queries else others for i in range(len(kept))]
        here = [x.index_select(0, at) for x, at in zip(kept, places, strict=True)]
        same = order.same(some, others, ctx.lanes)
        with torch.enable_grad():
            for i in wanted:
                here[i].requires_grad_()
            tile = Tile(order, some, others, known[some].movedim(1, -1))
            value = ctx.program(tile, same, *here)
        outputs, given = (value, tile.total), (slope[some].to(value.dtype), -share[some].movedim(1, -1))
        made = torch.autograd.grad(outputs, [here[i] for i in wanted], given, allow_unused=True)
        for i, more in zip(wanted, made, strict=True):
            if more is not None:
                found[i].index_copy_(0, places[i], found[i].index_select(0, places[i]) + more)
    return {i: order.unsorted(slope) for i, slope in found.items()}


def _joined(one: Sums, other: Sums) -> Sums:
    """Two sums of exponentials as one."""
    top = torch.maximum(one[1], other[1])
    first, second = (torch.exp(each[1] - top) for each in (one, other))
    value = one[0] * _beside(first, one[0]) + other[0] * _beside(second, other[0])
    return value, top, one[2] * first + other[2] * second


def _beside(x: Tensor, like: Tensor) -> Tensor:
    """A factor of the first axes of another value."""
    return x.reshape(*x.shape, *(1,) * (like.dim() - x.dim()))
