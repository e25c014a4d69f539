"""The fused causal convolution against a loop over tokens and taps in double precision."""

from collections.abc import Sequence

import kernels.conv_launch
import pytest
import torch
from kernels.activation import NONE, Activation
from kernels.conv import causal_conv
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.kernels.triton.activations import GATE, LOG, SILU, STRAIGHT


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.conv_launch, "STEPS", 3)
    monkeypatch.setattr(kernels.conv_launch, "SEGMENTS", 4)
    monkeypatch.setattr(kernels.conv_launch, "PIECE", 24)


def slow(
    x: Tensor,
    w: Tensor,
    pos: Tensor,
    state: Tensor,
    bias: Tensor | None,
    activation: Activation = NONE,
    more: Sequence[Tensor | float] = (),
) -> Tensor:
    taps, stream = len(w), torch.cat([state, x], 1)
    rows = []
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            reach = [j for j in range(taps) if j == 0 or j <= int(pos[b, t])]
            rows.append(sum(w[taps - 1 - j] * stream[b, t + taps - 1 - j] for j in reach))
    y = torch.stack(rows).reshape(x.shape)
    y = y if bias is None else y + bias
    return activation.plain(y, *more)


def packed(time: int) -> Tensor:
    """Documents of two, one and many tokens, the first from before; the other row padded."""
    row = torch.cat([torch.arange(2, 5), torch.arange(2), torch.arange(1), torch.arange(time)])[:time]
    return torch.stack([row, torch.arange(time) - 2])


def gradients(outputs: tuple[Tensor, ...], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, inputs, weights)


def assert_same(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float = 1e-9) -> None:
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def drawn(time: int, taps: int, width: int, biased: bool) -> list[Tensor]:
    shapes = [(2, time, width), (taps, width), (2, taps - 1, width)] + [(width,)] * biased
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize(
    ("time", "taps", "width", "biased", "activation"),
    [(70, 4, 3, True, SILU), (35, 4, 3, False, NONE), (9, 2, 33, True, NONE)],
)
def test_the_convolution_is_the_sum_over_taps_inside_the_document(
    time: int, taps: int, width: int, biased: bool, activation: Activation
) -> None:
    inputs = drawn(time, taps, width, biased)
    x, w, state, bias = [*inputs, None][:4]
    y, last = causal_conv(x, w, packed(time), state, bias=bias, activation=activation)
    right = slow(x, w, packed(time), state, bias, activation)
    assert last is not None
    assert_same((y, last), (right, torch.cat([state, x], 1)[:, -(taps - 1) :]))
    assert_same(gradients((y,), inputs), gradients((right,), inputs))


NUMBERS = (0.7,)


@pytest.mark.parametrize(
    ("activation", "tokens", "weights", "numbers"),
    [(GATE, 1, 2, NUMBERS), (STRAIGHT, 1, 1, ()), (LOG, 1, 0, ())],
    ids=["gate", "straight", "log"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the logarithm of what is masked
@pytest.mark.parametrize("state", [True, False], ids=["state", "no state"])
def test_what_follows_reads_tokens_weights_and_numbers(
    activation: Activation, tokens: int, weights: int, numbers: tuple[float, ...], state: bool
) -> None:
    """In and behind two axes, the second of which a weight lacks."""
    x, w, past, bias = (z.unflatten(-1, (3, 2)) for z in drawn(29, 3, 6, True))
    past = past if state else torch.zeros_like(past)
    xs = [torch.randn(2, 29, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(tokens)]
    ws = [torch.randn(3, 1, dtype=torch.float64, requires_grad=True) for _ in range(weights)]
    pos = packed(29) if state else torch.arange(29)
    handed = {"tokens": tuple(xs), "weights": tuple(ws), "numbers": numbers}
    y, _ = causal_conv(x, w, pos, past if state else None, bias=bias, activation=activation, **handed)
    right = slow(x, w, pos.expand(2, 29), past, bias, activation, [*xs, *ws, *numbers])
    inputs = [x, w, bias, *([past] if state else []), *xs, *ws]
    assert_same((y, *gradients((y,), inputs)), (right, *gradients((right,), inputs)))
    with torch.no_grad():
        one = {**handed, "tokens": tuple(z[:, :1] for z in xs)}
        y, last = causal_conv(x[:, :1], w, pos.expand(2, 29)[:, :1], past, bias=bias, activation=activation, **one)
    assert last is not None
    assert_same((y, last), (right[:, :1], torch.cat([past, x[:, :1]], 1)[:, 1:]))


@pytest.mark.parametrize(("time", "taps"), [(1, 4), (2, 4), (9, 1), (67, 2)])
def test_a_whole_document_begins_with_nothing(time: int, taps: int) -> None:
    x, w, state, bias = drawn(time, taps, 5, True)
    y, none = causal_conv(x, w, torch.arange(time), bias=bias, activation=SILU)
    right = slow(x, w, torch.arange(time).expand(2, time), torch.zeros_like(state), bias, SILU)
    assert none is None
    assert_same((y, *gradients((y,), [x, w, bias])), (right, *gradients((right,), [x, w, bias])))


def test_one_token_looks_back_into_the_state() -> None:
    x, w, state, _ = drawn(1, 4, 5, True)
    for place in (0, 1, 2, 9, -1):
        pos = torch.full((2, 1), place)
        y, last = causal_conv(x, w, pos, state)
        assert last is not None
        assert_same((y, last), (slow(x, w, pos, state, None), torch.cat([state, x], 1)[:, 1:]))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that were started."""
    from triton.runtime.interpreter import GridExecutor

    names: list[str] = []
    start = GridExecutor.__call__

    def noted(executor: GridExecutor, *args: object, **keywords: object) -> None:
        names.append(executor.fn.__name__)
        start(executor, *args, **keywords)

    monkeypatch.setattr(GridExecutor, "__call__", noted)
    return names


@pytest.mark.parametrize(
    ("taps", "width", "biased", "activation"), [(4, 5, True, SILU), (2, 130, False, NONE), (1, 3, True, SILU)]
)
def test_one_token_is_one_kernel_where_no_gradient_is_wanted(
    taps: int, width: int, biased: bool, activation: Activation, started: list[str]
) -> None:
    x, w, state, bias = [*(z.detach() for z in drawn(1, taps, width, biased)), None][:4]
    for place in (0, 2, -1):
        pos = torch.tensor([[place], [9]])
        with FlopCounterMode(display=False) as counter:
            y, last = causal_conv(x, w, pos, state, bias=bias, activation=activation)
        assert last is not None
        assert_same((y, last), (slow(x, w, pos, state, bias, activation), torch.cat([state, x], 1)[:, 1:]))
        assert counter.get_flop_counts()["Global"].keys() == {activation.fused._opoverload.overloadpacket}
        assert started == ["conv_token"]
        started.clear()
    assert counter.get_total_flops() == 2 * 2 * width * taps


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2), (torch.float16, 8e-3)])
def test_sums_are_single_precision_whatever_comes_in(dtype: torch.dtype, tolerance: float) -> None:
    inputs = [each.detach().to(dtype).requires_grad_() for each in drawn(20, 4, 3, True)]
    wide = [each.detach().double().requires_grad_() for each in inputs]
    x, w, state, bias = inputs
    y, _ = causal_conv(x, w, packed(20), state, bias=bias, activation=SILU)
    right = slow(wide[0], wide[1], packed(20), wide[2], wide[3], SILU)
    assert y.dtype is dtype
    mine, theirs = gradients((y,), inputs), gradients((right,), wide)
    assert [g.dtype for g in mine] == [dtype] * 4
    assert_same((y.double(), *(g.double() for g in mine)), (right, *theirs), tolerance)


CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


def test_the_operator_is_one_that_torch_understands() -> None:
    x, w, state, bias = (each.detach().float().requires_grad_() for each in drawn(9, 3, 2, True))
    gate, scale, shift = (torch.randn(s, requires_grad=True) for s in ((2, 7, 2), (2,), (2,)))
    many = [gate], [scale, shift], [0.5], [x, w, bias], packed(9)[:, 2:], None, True
    torch.library.opcheck(GATE.fused, many, test_utils=CHECKS)
    no_gradient = [z.detach().bfloat16() for z in (x[:, :1], w, bias)], packed(9)[:, :1], state.detach(), False
    torch.library.opcheck(SILU.fused, ([], [], [], *no_gradient), test_utils=("test_schema", "test_faketensor"))


def test_multiply_adds_are_counted() -> None:
    x, w, _, _ = drawn(9, 4, 5, True)
    with FlopCounterMode(display=False) as counter:
        causal_conv(x, w, torch.arange(9))[0].sum().backward()
    assert counter.get_total_flops() == (2 + 4) * 2 * 9 * 5 * 4
