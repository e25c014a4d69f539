"""Attention against one softmax per query in double precision: packing, windows, groups, rings, continuation."""

import pytest
import torch
from kernels.attention import attention, bidirectional_attention
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Rings = tuple[Tensor, Tensor]


def slow_attention(q: Tensor, k: Tensor, v: Tensor, pos: Tensor, window: int | None, scale: float) -> Tensor:
    """A stream from its first token on; every query looks for its keys by itself."""
    batch, time, groups, shared, _ = q.shape
    pos = pos.expand(batch, time)
    rows = []
    for b in range(batch):
        for t in range(time):
            first = max(t - int(pos[b, t]), 0 if window is None else t - window + 1, 0)
            if pos[b, t] < 0:
                rows.append(v.new_zeros(groups, shared, v.shape[-1]) * q[b, t].sum())
                continue
            scores = scale * torch.einsum("gmd,sgd->gms", q[b, t], k[b, first : t + 1])
            rows.append(torch.einsum("gms,sge->gme", scores.softmax(-1), v[b, first : t + 1]))
    return torch.stack(rows).unflatten(0, (batch, time))


def inputs(time: int, size: int = 8, value_size: int = 8, shared: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(time)
    shapes = [(2, time, 2, shared, size), (2, time, 2, size), (2, time, 2, value_size)]
    q, k, v = (torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes)
    return q, k, v


def documents(time: int, padding: int) -> Tensor:
    """A row of three documents, and a left-padded row of one."""
    lengths = [time // 3, time // 2, time]
    row = torch.cat([torch.arange(n) for n in lengths])[:time]
    return torch.stack([row, torch.arange(time) - padding])


def rings(width: int, value_size: int = 8, fill: float = 0.0) -> Rings:
    return torch.full((2, width, 2, 8), fill).double(), torch.full((2, width, 2, value_size), fill).double()


def assert_same(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("time", [1, 7, 64, 65, 150])
@pytest.mark.parametrize("window", [None, 1, 5, 64, 70])
@pytest.mark.parametrize("packing", ["whole", "packed"])
def test_values_and_gradients(time: int, window: int | None, packing: str) -> None:
    q, k, v = inputs(time, value_size=5 if time == 65 else 8)
    pos = torch.arange(time) if packing == "whole" else documents(time, min(3, time - 1))
    y, none = attention(q, k, v, pos, window=window, scale=0.7)
    slow = slow_attention(q, k, v, pos, window, 0.7)
    weight = torch.randn(slow.shape, dtype=torch.float64)
    assert none is None
    assert_same((y,), (slow,))
    assert_same(torch.autograd.grad(y, (q, k, v), weight), torch.autograd.grad(slow, (q, k, v), weight))


def test_masks_of_many_queries_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(attention.__globals__, "MASKED_QUERIES", 16)
    q, k, v = inputs(50, value_size=12, shared=1)
    pos = documents(50, 3)
    assert_same((attention(q, k, v, pos, scale=0.7)[0],), (slow_attention(q, k, v, pos, None, 0.7),))


def slow_both_ways(q: Tensor, k: Tensor, v: Tensor, pos: Tensor, scale: float) -> Tensor:
    """Every query looks for the tokens of its document by itself, before and behind."""
    batch, time, groups, shared, _ = q.shape
    document = (pos.expand(batch, time) == 0).cumsum(1).masked_fill(pos.expand(batch, time) < 0, 0)
    rows = []
    for b in range(batch):
        for t in range(time):
            own = (document[b] == document[b, t]).nonzero()[:, 0] if document[b, t] else []
            scores = scale * torch.einsum("gmd,sgd->gms", q[b, t], k[b, own])
            rows.append(torch.einsum("gms,sge->gme", scores.softmax(-1), v[b, own]))
    return torch.stack(rows).reshape(batch, time, groups, shared, -1)


@pytest.mark.parametrize("packing", ["whole", "packed"])
@pytest.mark.parametrize("time", [1, 7, 50])
def test_both_ways(time: int, packing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bidirectional_attention.__globals__, "MASKED_QUERIES", 16)
    q, k, v = inputs(time, value_size=5)
    pos = torch.arange(time) if packing == "whole" else documents(time, min(3, time - 1))
    if packing == "packed":
        pos[0, time - time // 8 :] = -1  # padding behind the last document
    y, slow = bidirectional_attention(q, k, v, pos, scale=0.7), slow_both_ways(q, k, v, pos, 0.7)
    weight = torch.randn(slow.shape, dtype=torch.float64)
    assert_same((y,), (slow,))
    assert_same(torch.autograd.grad(y, (q, k, v), weight), torch.autograd.grad(slow, (q, k, v), weight))


@pytest.mark.parametrize("cuts", [[1] * 12, [40], [5, 1, 1, 20, 6, 1, 6], [3, 37], [30, 1, 9], [20, 20]])
@pytest.mark.parametrize(("width", "window"), [(40, None), (40, 9), (9, 9), (9, None), (4, 4), (1, 1)])
@pytest.mark.parametrize("fill", [0.0, 1e6])
def test_pieces_on_rings_are_the_whole(cuts: list[int], width: int, window: int | None, fill: float) -> None:
    time = sum(cuts)
    q, k, v = inputs(time)
    pos = documents(time, 4)
    state, pieces = rings(width, fill=fill), []
    with torch.no_grad():
        for parts in zip(*(x.split(cuts, 1) for x in (q, k, v, pos)), strict=True):
            piece, state = attention(*parts, state, window=window, scale=0.7)
            pieces.append(piece)
    reach = width if window is None else min(window, width)
    assert_same((torch.cat(pieces, 1),), (slow_attention(q, k, v, pos, reach, 0.7),))


def test_whole_documents_on_empty_rings_are_a_prefill() -> None:
    q, k, v = inputs(30)
    prompt, token = ([x[:, :29] for x in (q, k, v)], [x[:, 29:] for x in (q, k, v)])
    with torch.no_grad():
        first, state = attention(*prompt, torch.arange(29), rings(12), window=12, scale=0.7)
        second, _ = attention(*token, torch.full((2, 1), 29), state, window=12, scale=0.7)
    assert_same((torch.cat([first, second], 1),), (slow_attention(q, k, v, torch.arange(30), 12, 0.7),))


def test_rings_are_written_in_place_only_without_gradients() -> None:
    q, k, v = inputs(1)
    state = rings(4)
    _, after = attention(q, k, v, torch.zeros(2, 1, dtype=torch.int64), state, scale=1.0)
    assert after is not None
    assert state[0].abs().sum() == 0
    assert after[0].requires_grad
    with torch.no_grad():
        _, after = attention(q, k, v, torch.zeros(2, 1, dtype=torch.int64), state, scale=1.0)
    assert after is not None
    assert after[0] is state[0]
    assert_same((state[1][:, :1],), (v.detach(),))


@pytest.mark.parametrize("time", [1, 5])
def test_gradients_flow_through_rings(time: int) -> None:
    q, k, v = inputs(10 + time)
    pos = (torch.arange(10 + time) + torch.tensor([[0], [-2]])).long()
    _, state = attention(q[:, :10], k[:, :10], v[:, :10], pos[:, :10], rings(16), scale=0.7)
    y, _ = attention(q[:, 10:], k[:, 10:], v[:, 10:], pos[:, 10:], state, scale=0.7)
    slow = slow_attention(q, k, v, pos, None, 0.7)[:, 10:]
    weight = torch.randn(slow.shape, dtype=torch.float64)
    assert_same(torch.autograd.grad(y, (q, k, v), weight), torch.autograd.grad(slow, (q, k, v), weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_gives_zero_and_finite_gradients(dtype: torch.dtype) -> None:
    q, k, v = (x.detach().to(dtype).requires_grad_() for x in inputs(8))
    pos = torch.arange(8).expand(2, 8) - 3
    for window in (None, 2):
        y, _ = attention(q, k, v, pos, window=window, scale=1.0)
        assert y.dtype is dtype
        assert y[:, :3].abs().sum() == 0
        assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(y.sum(), (q, k, v)))
    y, _ = attention(q[:, :1], k[:, :1], v[:, :1], pos[:, :1], tuple(x.to(dtype) for x in rings(4)), scale=1.0)
    assert y.abs().sum() == 0


def test_a_window_costs_time_times_window() -> None:
    """Counted in multiply-adds of the products that attention makes, on the meta device."""

    def flops(time: int) -> int:
        q, k, v = (torch.empty(1, time, 2, *axes, device="meta") for axes in ((3, 8), (8,), (8,)))
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            attention(q, k, v, torch.arange(time, device="meta"), window=64, scale=1.0)
        return counter.get_total_flops()

    assert 0 < flops(8192) < 2.2 * flops(4096)
