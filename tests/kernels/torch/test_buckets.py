"""Pairs within buckets, sorted, against whole matrices in double precision; and how many of them are computed."""

from collections.abc import Callable

import pytest
import torch
from kernels.buckets import over_buckets
from kernels.pairs import Keys, Rows
from torch import Tensor

TIME, HEADS, ROUNDS, DIM, BLOCK = 45, 2, 3, 4, 8


def places() -> tuple[Tensor, Tensor]:
    """pos [B, T] of packed documents and of padding in front, and the document of each token, below 0 for padding."""
    row = torch.cat([torch.arange(n) for n in (13, 1, 31)])
    document = torch.cat([torch.full((n,), i) for i, n in enumerate((13, 1, 31))])
    late = torch.arange(TIME) - 5
    return torch.stack([row, late]), torch.stack([document, torch.where(late < 0, late, 0)])


def drawn(among: int, time: int = TIME) -> Tensor:
    return torch.randint(among, (2, time, HEADS, ROUNDS), generator=torch.Generator().manual_seed(among))


BUCKETS = {
    "a few": drawn(4),
    "one": torch.zeros(2, TIME, HEADS, ROUNDS, dtype=torch.int32),
    "all different": torch.arange(TIME).expand(2, ROUNDS, HEADS, TIME).transpose(1, 3),
    "one long, many short": drawn(60).clamp(min=30),
    "negative": drawn(5) - 2,
}


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, TIME, HEADS, DIM, generator=draw, dtype=dtype).requires_grad_() for _ in range(3))


def program(mask: Callable[[Rows], Tensor]) -> Callable[..., Tensor]:
    """A token sees itself as good as never, as in Reformer, and a key adds to every score."""

    def run(rows: Rows, same: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s = torch.einsum("bqhd,bkhd->bhqk", rows.query_tokens(q), rows.key_tokens(k)) + rows.keys(k[..., 0])
        s = torch.where((rows.query_pos[..., None] == rows.key_pos[:, None])[:, None], -1e5, s)
        return torch.einsum("bhqk,bkhd->bqhd", rows.softmax(s, mask(rows)[:, None] & same), rows.key_tokens(v))

    return run


def slow(bucket: Tensor, seen: Tensor, pos: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same with all pairs: seen [B, T, S]."""
    s = torch.einsum("bqhd,bkhd->bhqk", q, k) + k[..., 0].transpose(1, 2)[:, :, None]
    s = torch.where((pos[:, :, None] == pos[:, None])[:, None], -1e5, s)
    met = (bucket[:, :, None] == bucket[:, None]).any(-1).permute(0, 3, 1, 2) & seen[:, None]
    p = torch.where(met, s, -torch.inf).softmax(-1).nan_to_num()
    return torch.einsum("bhqk,bkhd->bqhd", p, v)


@pytest.mark.parametrize("name", BUCKETS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("after", [0, None])
def test_values_and_gradients_are_those_of_all_pairs(name: str, packed: bool, after: int | None) -> None:
    """Uneven buckets too: no key is dropped, and a key that is met in several rounds counts once."""
    pos, document = places() if packed else (torch.arange(TIME).expand(2, -1), torch.zeros(2, TIME))
    bucket, tokens = BUCKETS[name], inputs()
    distance = torch.arange(TIME)[:, None] - torch.arange(TIME)
    seen = (document[:, :, None] == document[:, None]) & (document >= 0)[:, None]
    seen = seen & (distance >= 0) if after == 0 else seen
    run = program(Rows.causal if after == 0 else Rows.everything)
    keys = Keys(pos if packed else torch.arange(TIME), TIME)
    found = over_buckets(
        run, keys, (bucket, bucket), tokens[:1], tokens[1:], rounds=True, after=after, block=BLOCK, short=0
    )
    wanted = slow(bucket, seen, pos, *tokens)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=found.dtype)
    weights = weights * (document >= 0)[..., None, None]
    torch.testing.assert_close(found * (weights != 0), wanted * (weights != 0))
    for one, other in zip(*(torch.autograd.grad((y * weights).sum(), tokens) for y in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("seen", [3, 20])
def test_a_window_and_one_round_without_lanes(seen: int) -> None:
    """Query heads share a key head: what is left of the axes behind the lanes is the program's."""
    draw = torch.Generator().manual_seed(3)
    q = torch.randn(2, TIME, 3, DIM, generator=draw, dtype=torch.float64)
    k, v = (torch.randn(2, TIME, DIM, generator=draw, dtype=torch.float64) for _ in range(2))
    bucket = drawn(3)[..., 0, 0]

    def run(rows: Rows, same: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s = torch.einsum("bqhd,bkd->bhqk", rows.query_tokens(q), rows.key_tokens(k))
        return torch.einsum("bhqk,bkd->bqhd", rows.softmax(s, rows.window(seen) & same), rows.key_tokens(v))

    keys = Keys(torch.arange(TIME), TIME)
    found = over_buckets(run, keys, (bucket, bucket), (q,), (k, v), before=seen - 1, block=BLOCK, short=0)
    distance = torch.arange(TIME)[:, None] - torch.arange(TIME)
    met = (bucket[:, :, None] == bucket[:, None]) & (distance >= 0) & (distance < seen)
    p = torch.where(met[:, None], torch.einsum("bqhd,bkd->bhqk", q, k), -torch.inf).softmax(-1)
    torch.testing.assert_close(found, torch.einsum("bhqk,bkd->bqhd", p, v))


def test_half_precision_is_summed_in_single_precision() -> None:
    bucket, tokens = drawn(4), inputs(torch.bfloat16)
    keys = Keys(torch.arange(TIME), TIME)
    run = program(Rows.causal)
    found = over_buckets(run, keys, (bucket, bucket), tokens[:1], tokens[1:], rounds=True, block=BLOCK, short=0)
    seen = torch.ones(TIME, TIME, dtype=torch.bool).tril().expand(2, -1, -1)
    wide = [x.detach().double() for x in tokens]
    wanted = slow(bucket, seen, torch.arange(TIME).expand(2, -1), *wide)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), wanted, atol=0.05, rtol=0.05)
    found.sum().backward()
    assert all(x.grad.dtype == torch.bfloat16 and x.grad.isfinite().all() for x in tokens)


def counted(bucket: Tensor, time: int, short: int | None = 0) -> tuple[int, int, int]:
    """Of one round of one head: pairs forward, pairs in all, numbers that wait for the backward pass."""
    pairs, kept = [0], [0]
    q, k, v = (torch.randn(1, time, DIM, requires_grad=True) for _ in range(3))

    def run(rows: Rows, same: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s = torch.einsum("bqd,bkd->bqk", rows.query_tokens(q), rows.key_tokens(k))
        pairs[0] += s.numel()
        return torch.einsum("bqk,bkd->bqd", rows.softmax(s, rows.causal() & same), rows.key_tokens(v))

    def keep(x: Tensor) -> Tensor:
        kept[0] += x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        keys = Keys(torch.arange(time), time)
        y = over_buckets(run, keys, (bucket, bucket), (q,), (k, v), block=BLOCK, short=short)
    forward = pairs[0]
    y.sum().backward()
    return forward, pairs[0], kept[0]


@pytest.mark.parametrize("time", [64, 128])
def test_even_buckets_cost_a_tile_for_each_tile_of_queries(time: int) -> None:
    """As many buckets as tiles, each as long as a tile: T x block pairs, once forward and once backward."""
    bucket = torch.arange(time)[None] % (time // BLOCK)
    forward, total, kept = counted(bucket, time)
    assert (forward, total) == (time * BLOCK, 2 * time * BLOCK)
    assert kept <= (4 * DIM + 1) * time


def test_an_uneven_bucket_costs_its_own_pairs_and_keeps_none() -> None:
    """One bucket of half of the tokens, in whole tiles: the triangle of its tiles beside the diagonal of the rest."""
    time, tiles = 128, 128 // BLOCK
    bucket = torch.arange(time)[None].clamp(max=time // 2)
    forward, _, kept = counted(bucket, time)
    half = tiles // 2
    assert forward == (half * (half + 1) // 2 + half) * BLOCK**2
    assert kept <= (4 * DIM + 1) * time


def test_a_short_sequence_runs_in_blocks_of_queries() -> None:
    time = 4 * BLOCK
    assert counted(torch.arange(time)[None], time, None)[0] == time**2
    assert counted(torch.arange(time + BLOCK)[None], time + BLOCK, None)[0] == (time + BLOCK) * BLOCK
