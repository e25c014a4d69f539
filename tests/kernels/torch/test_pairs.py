"""Pair programs in blocks and on rings against whole matrices in double precision."""

from collections.abc import Callable

import pytest
import torch
from kernels.pairs import Keys, Rows, over_rows, remember
from torch import Tensor

LENGTHS = (13, 1, 40)  # documents of the packed row
TIME = sum(LENGTHS)
PADDING = 5


def places() -> tuple[Tensor, Tensor, Tensor]:
    """pos and the document of each token, [B, T], and pos where documents start at 0; padding is no document, -1."""
    row = torch.cat([torch.arange(n) for n in LENGTHS])
    document = torch.cat([torch.full((n,), i) for i, n in enumerate(LENGTHS)])
    pos = torch.stack([row, torch.arange(TIME) - PADDING])
    return pos, torch.stack([document, (torch.arange(TIME) >= PADDING).long() - 1]), row


def same_document() -> Tensor:
    _, document, _ = places()
    return (document[:, :, None] == document[:, None]) & (document >= 0)[:, None]


DISTANCE = torch.arange(TIME)[:, None] - torch.arange(TIME)
MASKS: dict[str, tuple[Callable[[Rows], Tensor], Tensor]] = {
    "everything": (Rows.everything, torch.ones(TIME, TIME, dtype=torch.bool)),
    "causal": (Rows.causal, DISTANCE >= 0),
    "window": (lambda rows: rows.window(7), (DISTANCE >= 0) & (DISTANCE < 7)),
    "near": (lambda rows: rows.near(3), DISTANCE.abs() <= 3),
    "dilated": (lambda rows: rows.dilated(4, 3), torch.isin(DISTANCE, torch.tensor([0, 3, 6, 9]))),
    "prefix": (lambda rows: rows.prefix(4), places()[0][:, None].expand(2, TIME, TIME) < 4),
    "outside a window": (lambda rows: rows.causal() & ~rows.window(7), DISTANCE >= 7),
}
BEFORE = {"window": 6, "near": 3, "dilated": 9}


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, TIME, 4, 3, dtype=torch.float64, generator=generator) for _ in range(3))
    mix = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), mix.requires_grad_()


def composed(q: Tensor, k: Tensor, v: Tensor, mix: Tensor, mask: Callable[[Rows], Tensor]) -> Callable[[Rows], Tensor]:
    """Scores and weights are mixed over heads, as DCFormer does, and a gate belongs to each key."""

    def program(rows: Rows) -> Tensor:
        s = torch.einsum("bqhd,bkhd->bhqk", rows.query_tokens(q), rows.key_tokens(k))
        s = torch.einsum("bhqk,hg->bgqk", s, mix) + rows.keys(k[..., 0]) * rows.queries(q[..., 1])
        p = torch.einsum("bhqk,hg->bgqk", rows.softmax(s, mask(rows)), mix)
        return torch.einsum("bhqk,bkhd->bqhd", p, rows.key_tokens(v))

    return program


def slow_composed(q: Tensor, k: Tensor, v: Tensor, mix: Tensor, seen: Tensor) -> Tensor:
    """seen: [B, T, T]."""
    s = torch.einsum("bqhd,bkhd,hg->bgqk", q, k, mix) + torch.einsum("bkh,bqh->bhqk", k[..., 0], q[..., 1])
    weights = torch.exp(s - s.detach().amax(-1, keepdim=True)) * seen[:, None]
    total = weights.sum(-1, keepdim=True)
    p = torch.einsum("bhqk,hg->bgqk", weights / torch.where(total == 0, 1, total), mix)
    return torch.einsum("bhqk,bkhd->bqhd", p, v)


def assert_same(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("block", [1, 7, 16, 128])
@pytest.mark.parametrize("packing", ["whole", "packed"])
def test_blocks_are_the_whole_matrix(name: str, block: int, packing: str) -> None:
    operands, (mask, seen) = inputs(), MASKS[name]
    pos = torch.arange(TIME) if packing == "whole" else places()[0]
    if packing == "packed":
        seen = seen & same_document()
    elif name == "prefix":
        seen = (torch.arange(TIME) < 4).expand(2, TIME, TIME)
    after = {"everything": None, "prefix": None, "near": 3}.get(name, 0)
    _, keys, none = remember(operands[1:3], pos, None)
    y = over_rows(composed(*operands, mask), keys, before=BEFORE.get(name), after=after, block=block)
    slow = slow_composed(*operands, seen.expand(2, TIME, TIME))
    weight = torch.randn(y.shape, dtype=torch.float64)
    assert none is None
    assert_same((y,), (slow,))
    assert_same(torch.autograd.grad(y, operands, weight), torch.autograd.grad(slow, operands, weight))


@pytest.mark.parametrize("cuts", [[1] * TIME, [5, 1, 1, 30, 17], [53, 1], [54]])
@pytest.mark.parametrize(("name", "width"), [("causal", TIME), ("window", 7), ("window", 20), ("dilated", 10)])
def test_pieces_on_rings_are_the_whole(cuts: list[int], name: str, width: int) -> None:
    (q, k, v, mix), (mask, seen), pieces = inputs(), MASKS[name], []
    rings = tuple(torch.full((2, width, 4, 3), 100.0, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        for q_part, k_part, v_part, pos in zip(*(x.split(cuts, 1) for x in (q, k, v, places()[0])), strict=True):
            streams, keys, rings = remember((k_part, v_part), pos, rings)
            program = composed(q_part, *streams, mix, mask)
            pieces.append(over_rows(program, keys, before=BEFORE.get(name), block=8))
        slow = slow_composed(q, k, v, mix, seen & same_document())
    assert_same((torch.cat(pieces, 1),), (slow,))


def test_keys_know_their_positions_on_rings() -> None:
    rings = (torch.zeros(1, 4),)
    _, keys, rings = remember((torch.arange(6.0)[None],), torch.arange(6)[None], rings)
    rows = Rows(keys, slice(0, 6), slice(0, 6))
    assert rows.key_pos.tolist() == [[0, 1, 2, 3, 4, 5]]
    (ring,), keys, rings = remember((torch.tensor([[6.0]]),), torch.tensor([[6]]), rings)
    rows = Rows(keys, slice(0, 1), slice(0, 4))
    assert rows.key_pos.tolist() == [[4, 5, 6, 3]]
    assert ring.tolist() == rows.key_pos.tolist()
    (stream,), keys, _ = remember((torch.tensor([[7.0, 8.0]]),), torch.tensor([[7, 8]]), rings)
    rows = Rows(keys, slice(0, 2), slice(0, 6))
    assert rows.key_pos.tolist() == stream.tolist() == [[3, 4, 5, 6, 7, 8]]


def test_sums_over_keys_stay_in_the_document() -> None:
    x = torch.randn(2, TIME, 4, dtype=torch.float64)
    seen = MASKS["near"][1] & same_document()
    pos, picked = places()[0], seen[..., None] * x[:, None]
    rows = Rows(Keys(pos, TIME), slice(0, TIME), slice(0, TIME))
    near, pairs = rows.near(3), rows.keys(x)
    counts = seen.sum(-1, keepdim=True)
    empty = counts == 0
    assert_same((rows.sum(pairs, near),), (picked.sum(2),))
    assert_same((rows.mean(pairs, near),), (picked.sum(2) / counts.clamp(min=1),))
    highest = torch.where(seen[..., None], x[:, None], -torch.inf).amax(2)
    lowest = torch.where(seen[..., None], x[:, None], torch.inf).amin(2)
    assert_same((rows.max(pairs, near), rows.min(pairs, near)), (highest.where(~empty, 0), lowest.where(~empty, 0)))
    assert empty.any()


def test_masks_with_axes_and_comparisons_join_plain_masks() -> None:
    bucket = torch.randint(3, (2, TIME, 4))
    rows = Rows(Keys(places()[0], TIME), slice(0, TIME), slice(0, TIME))
    equal = rows.queries(bucket) == rows.keys(bucket)
    p = rows.softmax(torch.zeros(2, 4, TIME, TIME, dtype=torch.float64), equal & rows.causal()[:, None])
    seen = (bucket[:, :, None] == bucket[:, None]).movedim(-1, 1) & (same_document() & (DISTANCE >= 0))[:, None]
    assert_same((p,), (seen / seen.sum(-1, keepdim=True).clamp(min=1).double(),))


def test_softmax_is_computed_in_single_precision() -> None:
    scores = torch.randn(1, 2, 300, 300).bfloat16()
    rows = Rows(Keys(torch.arange(300), 300), slice(0, 300), slice(0, 300))
    p = rows.softmax(scores)
    assert p.dtype is torch.bfloat16
    assert_same((p,), (scores.double().softmax(-1).bfloat16(),))


def test_only_the_pairs_of_one_block_are_kept() -> None:
    kept: list[int] = []

    def count(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    operands = inputs()
    _, keys, _ = remember(operands[1:3], torch.arange(TIME), None)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        over_rows(composed(*operands, Rows.causal), keys, block=8)
    assert sum(kept) < TIME * TIME
