"""The loop with a gated step against plain autograd through every step in double precision."""

import pytest
import torch
from kernels.loop import loop
from torch import Tensor

Tensors = tuple[Tensor, ...]


class Cell:
    """A step with two states, a weight that it closes over, and a further value."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.weight = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)

    def __call__(self, inputs: Tensors, states: Tensors) -> Tensors:
        (x, gate), (h, c) = inputs, states
        c = torch.sigmoid(gate) * c + torch.tanh(x + h @ self.weight)
        return c.sin(), c, h * x


def slow(cell: Cell, inputs: Tensors, starts: Tensors, pos: Tensor, states: Tensors) -> Tensors:
    outs = []
    for t in range(pos.shape[1]):
        fresh = (pos[:, t] == 0)[:, None].double()
        states = tuple(fresh * s + (1 - fresh) * old for s, old in zip(starts, states, strict=True))
        values = cell(tuple(x[:, t] for x in inputs), states)
        states = values[:2]
        outs.append(values)
    return tuple(torch.stack(parts, 1) for parts in zip(*outs, strict=True))


def tensors(*shape: int) -> Tensors:
    return tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))


def packed(time: int) -> Tensor:
    row = torch.cat([torch.arange(4, 6), torch.arange(1), torch.arange(18), torch.arange(time)])[:time]
    return torch.stack([row, torch.arange(time) - 2])


def assert_same(mine: Tensors, theirs: Tensors) -> None:
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("time", [1, 16, 17, 50])
def test_values_gradients_restarts_and_states(time: int) -> None:
    cell = Cell()
    inputs, starts, states = tensors(2, time, 3), tensors(2, 3), tensors(2, 3)
    values, last = loop(cell, inputs, starts, packed(time), states)
    expected = slow(cell, inputs, starts, packed(time), states)
    assert last is not None
    assert_same(values + last, (*expected, expected[0][:, -1], expected[1][:, -1]))
    weights = [torch.randn(x.shape, dtype=torch.float64) for x in values + last]
    wanted = (cell.weight, *inputs, *starts, *states)
    if time == 1:
        wanted = (cell.weight, *inputs, *states)
    mine = torch.autograd.grad(values + last, wanted, weights)
    theirs = torch.autograd.grad((*expected, expected[0][:, -1], expected[1][:, -1]), wanted, weights)
    assert_same(mine, theirs)


def test_whole_documents_begin_at_the_starts() -> None:
    cell, inputs, starts = Cell(), tensors(2, 20, 3), tensors(2, 3)
    expected = slow(cell, inputs, starts, torch.arange(20).expand(2, 20), starts)
    for state in (None, tensors(2, 3)):
        values, last = loop(cell, inputs, starts, torch.arange(20), state)
        assert_same(values, expected)
        assert (last is None) == (state is None)


@pytest.mark.parametrize("cuts", [[1, 1, 1, 20, 3, 14], [39, 1], [17, 23]])
def test_pieces_with_a_state_are_the_whole(cuts: list[int]) -> None:
    cell, inputs, starts, state, pos, pieces = Cell(), tensors(2, 40, 3), tensors(2, 3), tensors(2, 3), packed(40), []
    expected = slow(cell, inputs, starts, pos, state)
    for x, gate, places in zip(*(z.split(cuts, 1) for z in (*inputs, pos)), strict=True):
        values, state = loop(cell, (x, gate), starts, places, state)
        pieces.append(values)
    assert_same(tuple(torch.cat(parts, 1) for parts in zip(*pieces, strict=True)), expected)


def test_the_graph_of_only_a_few_steps_is_kept() -> None:
    kept: list[int] = []

    def count(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    cell, inputs, starts = Cell(), tensors(2, 160, 3), tensors(2, 3)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        loop(cell, inputs, starts, torch.arange(160))
    mine = sum(kept)
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        slow(cell, inputs, starts, torch.arange(160).expand(2, 160), starts)
    assert mine < sum(kept) / 4
