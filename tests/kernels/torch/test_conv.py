"""The causal convolution and the token before, against loops over tokens and taps in double precision."""

import pytest
import torch
from kernels.activation import Activation
from kernels.conv import causal_conv
from kernels.prev import prev
from torch import Tensor

SILU = Activation(torch.nn.functional.silu)


def slow_conv(x: Tensor, w: Tensor, pos: Tensor, state: Tensor) -> Tensor:
    taps, stream = len(w), torch.cat([state, x], 1)
    rows = []
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            reach = [j for j in range(taps) if j == 0 or j <= int(pos[b, t])]
            rows.append(sum(w[taps - 1 - j] * stream[b, t + taps - 1 - j] for j in reach))
    return torch.stack(rows).reshape(x.shape)


def slow_prev(x: Tensor, pos: Tensor, state: Tensor) -> Tensor:
    stream = torch.cat([state[:, None], x], 1)
    rows = [stream[b, t] * float(pos[b, t] != 0) for b in range(x.shape[0]) for t in range(x.shape[1])]
    return torch.stack(rows).reshape(x.shape)


def packed(time: int) -> Tensor:
    row = torch.cat([torch.arange(2, 5), torch.arange(2), torch.arange(1), torch.arange(time)])[:time]
    return torch.stack([row, torch.arange(time) - 2])


def gradients(outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, inputs, weights)


def assert_same(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("time", [1, 2, 3, 11])
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_the_convolution_is_the_sum_over_taps_inside_the_document(time: int, taps: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, time, 3, 2, dtype=torch.float64, requires_grad=True)
    w = torch.randn(taps, 3, 2, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, taps - 1, 3, 2, dtype=torch.float64, requires_grad=True)
    pos = packed(time)
    y, last = causal_conv(x, w, pos, state)
    slow = slow_conv(x, w, pos, state)
    slow_last = torch.cat([state, x], 1)[:, time:]
    assert_same((y, last), (slow, slow_last))
    assert_same(gradients((y, last), (x, w, state)), gradients((slow, slow_last), (x, w, state)))


@pytest.mark.parametrize("time", [1, 11])
def test_bias_and_activation_are_taken_of_the_sum(time: int) -> None:
    shapes = [(2, time, 3), (4, 3), (2, 3, 3), (3,), (2, time, 3), (3,)]
    inputs = tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    x, w, state, bias, gate, scale = inputs

    def gated(total: Tensor, gate: Tensor, scale: Tensor, number: float) -> Tensor:
        return number * gate * torch.tanh(scale * total)

    more = {"tokens": (gate,), "weights": (scale,), "numbers": (0.5,)}
    y, _ = causal_conv(x, w, packed(time), state, bias=bias, activation=Activation(gated), **more)
    slow = 0.5 * gate * torch.tanh(scale * (slow_conv(x, w, packed(time), state) + bias))
    assert_same((y, *gradients((y,), inputs)), (slow, *gradients((slow,), inputs)))


@pytest.mark.parametrize("time", [1, 3, 11])
def test_without_a_state_the_past_is_zero(time: int) -> None:
    x = torch.randn(2, time, 3, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros(2, 3, 3, dtype=torch.float64)
    for pos in (torch.arange(time), packed(time)):
        y, none = causal_conv(x, w, pos)
        slow = slow_conv(x, w, pos.expand(2, time), zeros)
        assert none is None
        assert_same((y,), (slow,))
        assert_same(gradients((y,), (x, w)), gradients((slow,), (x, w)))


def test_whole_documents_do_not_read_the_state() -> None:
    x, w, junk = torch.randn(2, 5, 3), torch.randn(4, 3), torch.full((2, 3, 3), 1e9)
    y, last = causal_conv(x, w, torch.arange(5), junk)
    assert_same((y,), (causal_conv(x, w, torch.arange(5))[0],))
    assert last is not None
    assert_same((last, prev(x, torch.arange(5), junk[:, 0])[0]), (x[:, 2:], prev(x, torch.arange(5))[0]))


def test_the_convolution_of_half_precision_is_summed_in_single_precision() -> None:
    x, w = torch.randn(2, 50, 64).bfloat16(), torch.randn(4, 64).bfloat16()
    x.requires_grad_()
    w.requires_grad_()
    pos = torch.arange(50).expand(2, 50)
    y, _ = causal_conv(x, w, pos)
    wide_x, wide_w = (z.detach().double().requires_grad_() for z in (x, w))
    slow = slow_conv(wide_x, wide_w, pos, torch.zeros(2, 3, 64, dtype=torch.float64))
    assert_same((y,), (slow.bfloat16(),))
    biased, _ = causal_conv(x, w, pos, bias=w[0], activation=SILU)
    assert_same((biased,), (torch.nn.functional.silu(slow + wide_w[0]).bfloat16(),))
    weight = torch.randn(2, 50, 64).bfloat16()
    mine = torch.autograd.grad(y, (x, w), weight)
    theirs = torch.autograd.grad(slow, (wide_x, wide_w), weight.double())
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize("time", [1, 2, 11])
def test_prev_is_the_token_before(time: int) -> None:
    x = torch.randn(2, time, 3, 2, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    pos = packed(time)
    y, last = prev(x, pos, state)
    slow = slow_prev(x, pos, state)
    assert_same((y, last), (slow, x[:, -1]))
    assert_same(gradients((y, last), (x, state)), gradients((slow, x[:, -1]), (x, state)))
    for places in (torch.arange(time), pos):
        alone, none = prev(x, places)
        assert none is None
        assert_same((alone,), (slow_prev(x, places.expand(2, time), torch.zeros_like(state)),))


@pytest.mark.parametrize("cuts", [[1, 1, 1, 20, 3, 14], [39, 1]])
def test_pieces_with_a_state_are_the_whole(cuts: list[int]) -> None:
    x, w = torch.randn(2, 40, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    pos = torch.stack([torch.cat([torch.arange(20), torch.arange(20)]), torch.arange(40) - 3])
    window, last, ys, befores = torch.zeros(2, 3, 3).double(), torch.zeros(2, 3).double(), [], []
    for part, pos_part in zip(x.split(cuts, 1), pos.split(cuts, 1), strict=True):
        y, window = causal_conv(part, w, pos_part, window)
        before, last = prev(part, pos_part, last)
        ys.append(y)
        befores.append(before)
    assert_same((torch.cat(ys, 1), torch.cat(befores, 1)), (causal_conv(x, w, pos)[0], prev(x, pos)[0]))
