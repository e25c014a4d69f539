"""Gated scans against a loop over tokens in double precision: values, gradients, restarts, states, pieces, dtypes."""

import inspect
from collections.abc import Callable

import kernels.gated_tiles
import pytest
import torch
from kernels.gated import Gates, gated_scan
from kernels.read_out import Read
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.kernels.triton.gates import (
    BOUNDED_BEFORE,
    BOUNDED_MIN_GRU,
    GATED_BEFORE,
    GATED_RG_LRU,
    HGRN,
    HGRN_BEFORE,
    MIN_GRU,
    RG_LRU,
    bound,
    bounded_min_gru,
    gated_rg_lru,
    hgrn,
    rg_lru,
    rg_lru_device,
    rg_lru_grad,
)

Inputs = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


def slow(gates: Gates, inputs: Inputs, pos: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    x, w = inputs
    starts = pos.expand(x[0].shape[:2]) == 0
    a, u = gates.plain(*x, *w, starts[..., None])
    h = torch.zeros_like(u[:, 0]) if state is None else state
    out = []
    for t in range(u.shape[1]):
        before = torch.where(starts[:, t, None], 0, h)
        h = a[:, t] * before + u[:, t]
        out.append(before if gates.before else h)
    states = torch.stack(out, 1)
    return states if gates.read is None else gates.read.plain(states, *x, *w), h


def inputs(gates: Gates, batch: int, time: int, width: int, dtype: torch.dtype = torch.float64) -> Inputs:
    count = len(inspect.signature(gates.plain).parameters) - 1
    rate, low = -2 * torch.rand(width), torch.rand(width)
    weights = {rg_lru: (rate,), gated_rg_lru: (rate, torch.randn(width)), hgrn: (low,)}.get(gates.plain, ())
    x = tuple(torch.randn(batch, time, width).to(dtype).requires_grad_() for _ in range(count - len(weights)))
    return x, tuple(w.to(torch.promote_types(dtype, torch.float32)).requires_grad_() for w in weights)


def packed(time: int) -> Tensor:
    """A row that goes on and restarts inside of a tile, twice in a row and at a tile's edge, and a padded one."""
    row = torch.cat([torch.arange(3, 8), torch.arange(1), torch.arange(26), torch.arange(time)])[:time]
    return torch.stack([row, torch.arange(time) - 2])


def gradients(outputs: tuple[Tensor, ...], wanted: list[Tensor]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, wanted, weights)


def assert_same(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float = 1e-9) -> None:
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def compare(gates: Gates, given: Inputs, pos: Tensor, state: Tensor | None) -> None:
    """Values and all gradients, those of the states that come and go with them."""
    wanted = [*given[0], *given[1]] + ([] if state is None or pos.dim() == 1 else [state])
    y, last = gated_scan(gates, *given, pos, state)
    right, end = slow(gates, given, pos, None if pos.dim() == 1 else state)
    mine, theirs = ((y,), (right,)) if last is None else ((y, last), (right, end))
    assert_same((*mine, *gradients(mine, wanted)), (*theirs, *gradients(theirs, wanted)))


EVERY = [RG_LRU, HGRN, MIN_GRU, GATED_RG_LRU, BOUNDED_MIN_GRU, GATED_BEFORE]


@pytest.mark.parametrize("gates", EVERY, ids=lambda gates: gates.plain.__name__ + "_before" * gates.before)
def test_the_scan_is_the_loop_with_restarts_and_states(gates: Gates) -> None:
    state = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    compare(gates, inputs(gates, 2, 39, 5), packed(39), state)


@pytest.mark.parametrize(("time", "width"), [(33, 19), (32, 16), (3, 1), (1, 3)])
def test_any_length_and_width_will_do(time: int, width: int) -> None:
    compare(RG_LRU, inputs(RG_LRU, 1, time, width), torch.arange(time), None)


def test_a_whole_document_leaves_the_state_unread_and_returns_its_own() -> None:
    compare(RG_LRU, inputs(RG_LRU, 2, 6, 3), torch.arange(6), torch.full((2, 3), torch.nan, dtype=torch.float64))


@pytest.mark.parametrize("gates", [GATED_RG_LRU, GATED_BEFORE], ids=["after", "before"])
def test_one_token_goes_on_from_the_state(gates: Gates) -> None:
    state = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    compare(gates, inputs(gates, 3, 1, 4), torch.tensor([[7], [0], [-1]]), state)


@pytest.fixture
def _pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.gated_tiles, "SHORTEST", 8)


@pytest.mark.usefixtures("_pieces")
@pytest.mark.parametrize(
    ("gates", "packs"),
    [
        *[(RG_LRU, True), (RG_LRU, False), (GATED_RG_LRU, True), (BOUNDED_MIN_GRU, True)],
        *[(BOUNDED_BEFORE, True), (HGRN_BEFORE, False)],
    ],
)
def test_pieces_of_time_side_by_side_are_one_pass(gates: Gates, packs: bool) -> None:
    time, width = 75, 3
    assert kernels.gated_tiles.piece_length(2, time, width, 0) == 32
    state = torch.randn(2, width, dtype=torch.float64, requires_grad=True) if packs else None
    compare(gates, inputs(gates, 2, time, width), packed(time) if packs else torch.arange(time), state)


def test_offsets_inside_of_a_piece_fit_32_bits() -> None:
    for batch, time, channels in [(1, 1 << 20, 4096), (64, 1 << 18, 16384), (1, 3, 1 << 28)]:
        length = kernels.gated_tiles.piece_length(batch, time, channels, 90)
        assert (length + 64) * channels < 1 << 31 or length <= 64


def test_calls_that_hand_over_the_state_are_one_call() -> None:
    (x, w), pos = inputs(RG_LRU, 2, 40, 3), packed(40)
    state, ys = torch.zeros(2, 3, dtype=torch.float64), []
    for start, end in [(0, 1), (1, 20), (20, 39), (39, 40)]:
        y, state = gated_scan(RG_LRU, tuple(each[:, start:end] for each in x), w, pos[:, start:end], state)
        ys.append(y)
    whole, _ = gated_scan(RG_LRU, x, w, pos, torch.zeros(2, 3, dtype=torch.float64))
    assert_same((torch.cat(ys, 1),), (whole,), 1e-12)


@pytest.mark.parametrize(
    ("dtype", "values", "weights"),
    [(torch.bfloat16, 8e-3, 1e-5), (torch.float16, 1e-3, 1e-5)],
)
def test_sums_are_single_precision_whatever_comes_in(dtype: torch.dtype, values: float, weights: float) -> None:
    x, w = inputs(RG_LRU, 2, 33, 5, dtype)
    state = torch.randn(2, 5, requires_grad=True)
    y, last = gated_scan(RG_LRU, x, w, packed(33), state)
    assert last is not None
    assert (y.dtype, last.dtype) == (dtype, torch.float32)
    got = gradients((y, last), [*x, *w, state])
    assert [g.dtype for g in got] == [dtype] * 3 + [torch.float32] * 2
    wide = tuple(each.detach().double().requires_grad_() for each in (*x, *w, state))
    right, end = slow(RG_LRU, (wide[:3], wide[3:4]), packed(33), wide[4])
    assert_same((y.double(),), (right,), values)
    assert_same((last.double(),), (end,), 1e-5)
    assert_same(tuple(g.double() for g in got[:3]), expected(right, end, list(wide[:3]), dtype), 2 * values)
    assert_same(tuple(g.double() for g in got[3:]), expected(right, end, list(wide[3:]), dtype), 10 * weights)


def expected(y: Tensor, last: Tensor, wanted: list[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The gradients for the incoming ones as rounded to the dtype of the output."""
    generator = torch.Generator().manual_seed(1)
    weights = [
        torch.randn(each.shape, generator=generator, dtype=torch.float64).to(kind).double()
        for each, kind in ((y, dtype), (last, torch.float32))
    ]
    return torch.autograd.grad((y, last), wanted, weights, retain_graph=True)


def test_axes_that_are_missing_are_broadcast() -> None:
    r, i, v = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in [(2, 5, 2, 1), (1, 1, 3), (2, 5, 2, 3)])
    rate = torch.tensor(-0.5, dtype=torch.float64, requires_grad=True)
    y, _ = gated_scan(RG_LRU, (r, i, v), (rate,), torch.arange(5))
    whole = [each.expand(2, 5, 2, 3).reshape(2, 5, 6) for each in (r, i, v)]
    right, _ = slow(RG_LRU, (tuple(whole), (rate.expand(6),)), torch.arange(5), None)
    right = right.view(2, 5, 2, 3)
    wanted = [r, i, v, rate]
    assert_same((y, *gradients((y,), wanted)), (right, *gradients((right,), wanted)))


@pytest.mark.parametrize("gates", [RG_LRU, Gates(rg_lru)], ids=["kernel", "operations"])
def test_channels_as_one_axis_and_as_several_are_the_same_channels(gates: Gates) -> None:
    x, w = inputs(RG_LRU, 2, 5, 6)
    state = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    right = slow(RG_LRU, (x, w), packed(5), state)
    y, last = gated_scan(
        gates,
        (x[0], x[1].unflatten(-1, (2, 3)), x[2]),
        (w[0].unflatten(-1, (2, 3)),),
        packed(5),
        state.unflatten(-1, (2, 3)),
    )
    assert last is not None
    assert (y.shape, last.shape) == ((2, 5, 6), (2, 2, 3))
    ours, wanted = (y, last.flatten(1)), [*x, *w, state]
    assert_same((*ours, *gradients(ours, wanted)), (*right, *gradients(right, wanted)))


CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


def test_the_operator_is_one_that_torch_understands() -> None:
    (x, w), state = inputs(RG_LRU, 2, 9, 3, torch.float32), torch.randn(2, 3, requires_grad=True)
    assert RG_LRU.fused is not None
    torch.library.opcheck(RG_LRU.fused, (list(x), list(w), [], [], packed(9), state, True), test_utils=CHECKS)


def test_no_operator_has_two_arguments_of_one_name() -> None:
    """Inductor binds them by name; what runs before it does not."""
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("archc::")]
    assert any(name.endswith("_backward") for name in names)
    for name in names:
        told = [each.name for each in torch._C._get_schema(name, "").arguments]
        assert len({*told}) == len(told), name


def test_the_scan_compiles_without_a_break() -> None:
    def loss(*inputs: Tensor) -> Tensor:
        y, last = gated_scan(RG_LRU, inputs[:3], inputs[3:4], packed(9), inputs[4])
        assert last is not None
        return (y * y).sum() + last.sum()

    (x, w), state = inputs(RG_LRU, 2, 9, 3, torch.float32), torch.randn(2, 3, requires_grad=True)
    wanted = [*x, *w, state]
    fast: Callable[..., Tensor] = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours, plain = fast(*wanted), loss(*wanted)
    assert_same((ours, *torch.autograd.grad(ours, wanted)), (plain, *torch.autograd.grad(plain, wanted)), 1e-6)


def test_gates_of_one_name_are_two_operators() -> None:
    other = Gates(rg_lru, rg_lru_device, rg_lru_grad)
    assert str(other.fused) != str(RG_LRU.fused)


def test_multiply_adds_are_counted() -> None:
    x, w = inputs(RG_LRU, 2, 9, 3)
    with FlopCounterMode(display=False) as counter:
        y, _ = gated_scan(RG_LRU, x, w, torch.arange(9))
        y.sum().backward()
    assert counter.get_total_flops() == (2 + 4) * 2 * 9 * 3


@pytest.mark.parametrize("before", [False, True])
def test_gates_without_a_device_function_are_operations_on_tensors(before: bool) -> None:
    state = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    compare(Gates(rg_lru, before=before), inputs(RG_LRU, 2, 7, 3), packed(7), state)
    plain = Gates(bounded_min_gru, read=Read(bound))
    (x, w), state = inputs(BOUNDED_MIN_GRU, 2, 7, 3), torch.randn(2, 3, dtype=torch.float64)
    assert_same(gated_scan(plain, x, w, packed(7), state)[:1], gated_scan(BOUNDED_MIN_GRU, x, w, packed(7), state)[:1])
