"""Fused scans of outer products with a normaliser in Triton's interpreter, against recurrences in double precision."""

import pytest
import torch
import triton
import triton.language as tl
from kernels import chunk_sizes, chunked_gates
from kernels.chunked_gates import ChunkedGates
from kernels.normalised_scan import gated_normalised_scan, normalised_chunked_scan
from kernels.read_out import Read
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.kernels.triton.interpreted.test_chunked import ASKED, GROUPS, HEADS, assert_same, distance, packed, slow


def inputs(time: int, shared: bool, keys: int, values: int) -> list[Tensor]:
    """log_a, k, v, q, S, z of two sequences; keys and queries are positive, as those of linear attention."""
    torch.manual_seed(time)
    heads = 1 if shared else HEADS
    shapes = [(2, time, GROUPS, HEADS), (2, time, GROUPS, heads, keys), (2, time, GROUPS, HEADS, values)]
    shapes += [shapes[1], (2, GROUPS, HEADS, keys, values), (2, GROUPS, HEADS, keys)]
    drawn = [torch.rand(shape, dtype=torch.float64) for shape in shapes]
    return [x.requires_grad_() for x in (-drawn[0], *drawn[1:])]


def both(log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, S: Tensor, z: Tensor, pos: Tensor) -> tuple[Tensor, ...]:
    """y, norm, S, z of the recurrences: the normaliser is what is read of values that are one."""
    y, S = slow(log_a, k, v, q, pos, S)
    norm, z = slow(log_a, k, v.new_ones(()).expand(*v.shape[:-1], 1), q, pos, z[..., None])
    return y, norm[..., 0], S, z[..., 0]


def fused(log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, S: Tensor, z: Tensor, pos: Tensor) -> tuple[Tensor, ...]:
    read, states = normalised_chunked_scan(log_a, k, v, q, pos, (S, z))
    return *read, *(x for x in states if x is not None)


def gradients(outputs: tuple[Tensor, ...], wanted: list[Tensor]) -> tuple[Tensor, ...]:
    weights = [torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, wanted, weights)


@pytest.mark.parametrize(("time", "shared", "sizes"), [(1, True, (4, 5)), (21, True, (4, 20)), (33, False, (5, 3))])
def test_both_read_outs_and_all_gradients_are_exact(time: int, shared: bool, sizes: tuple[int, int]) -> None:
    """The second in two slices of the values, of which one has the gradient of the normaliser."""
    operands, pos = inputs(time, shared, *sizes), packed(time)
    mine, theirs = fused(*operands, pos), both(*operands, pos)
    assert_same(mine, theirs)
    assert_same(gradients(mine, operands), gradients(theirs, operands))


@pytest.mark.parametrize("part", [0, 1, 2, 3])
def test_a_result_without_a_gradient_adds_nothing(part: int) -> None:
    operands, pos = inputs(3, True, 4, 5), packed(3)
    mine, theirs = ((scan(*operands, pos)[part],) for scan in (fused, both))
    wanted = [x for i, x in enumerate(operands) if i not in {1: (2, 4), 0: (5,), 2: (3, 5), 3: (2, 3, 4)}[part]]
    assert_same(gradients(mine, wanted), gradients(theirs, wanted))


def test_many_keys_run_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_sizes, "MOST_KEYS", 3)
    operands, pos = inputs(18, True, 5, 4), packed(18)
    mine, theirs = fused(*operands, pos), both(*operands, pos)
    assert_same((*mine, *gradients(mine, operands)), (*theirs, *gradients(theirs, operands)))


def test_sums_are_in_single_precision_whatever_comes_in() -> None:
    operands = [x.detach().bfloat16() for x in inputs(40, True, 4, 5)]
    operands[4:] = [x.float() for x in operands[4:]]
    operands = [operands[0].float(), *operands[1:]]
    mine, theirs = fused(*operands, packed(40)), both(*(x.double() for x in operands), packed(40))
    assert [x.dtype for x in mine] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    for one, other, most in zip(mine, theirs, (1e-2, 3e-3, 1e-6, 1e-6), strict=True):
        assert distance(one, other) < most


def scaled(x: Tensor, a: Tensor, w: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    return -a, x * w


def divided(y: Tensor, x: Tensor, a: Tensor, norm: Tensor, w: Tensor) -> Tensor:
    return y / norm + x * a


@triton.jit
def scaled_device(x, w, first):
    return -x[1], x[0] * w[0]


@triton.jit
def scaled_grad(x, w, first, dlog_a, dv):
    return (dv * w[0], -dlog_a), (tl.sum(dv * x[0], 1, keep_dims=True),)


@triton.jit
def divided_device(y, x, w):
    return y / x[2] + x[0] * x[1]


@triton.jit
def divided_grad(y, x, w, do):
    dy = do / x[2]
    da = tl.sum(do * x[0], 1, keep_dims=True)
    return dy, (do * x[1], da, -tl.sum(dy * (y / x[2]), 1, keep_dims=True)), (tl.zeros_like(da),)


GATES = ChunkedGates(
    scaled, (True, False), (False,), scaled_device, scaled_grad, Read(divided, divided_device, divided_grad),
    normalised=True,
)  # fmt: skip


@pytest.mark.parametrize(("time", "values"), [(1, 5), (21, 20)])
def test_what_is_divided_by_the_normaliser_never_leaves_the_kernel(time: int, values: int) -> None:
    log_a, k, v, q, S, z = (x.detach() for x in inputs(time, True, 4, values))
    w = torch.rand(GROUPS, HEADS, 1, dtype=torch.float64)
    operands, pos = [x.requires_grad_() for x in (log_a, k, v, q, S, z, w)], packed(time)
    out, states = gated_normalised_scan(GATES, (v, -log_a[..., None]), (w,), k, q, pos, (S, z))
    y, norm, last, last_z = both(log_a, k, v * w, q, S, z, pos)
    mine = out, *(x for x in states if x is not None)
    theirs = divided(y, v, -log_a[..., None], norm[..., None], w), last, last_z
    assert_same(mine, theirs)
    assert_same(gradients(mine, operands), gradients(theirs, operands))


@pytest.mark.parametrize("values", [5, 33])
def test_one_token_is_one_kernel_where_no_gradient_is_wanted(values: int) -> None:
    """With 256 keys of which 8 values are a program."""
    log_a, k, v, q, S, z = (x.detach() for x in inputs(1, True, 256, values))
    pos, w = torch.tensor([[3], [0]]), torch.ones(GROUPS, HEADS, 1, dtype=torch.float64)
    y, norm, *last = both(log_a, k, v, q, S, z, pos)
    with FlopCounterMode(display=False) as counter:
        mine = fused(log_a, k, v, q, S, z, pos)
        out, states = gated_normalised_scan(GATES, (v, -log_a[..., None]), (w,), k, q, pos, (S, z))
    assert_same(mine, (y, norm, *last))
    assert_same((out, *(x for x in states if x is not None)), (y / norm[..., None] - v * log_a[..., None], *last))
    operators = {gates.fused._opoverload.overloadpacket for gates in (chunked_gates.NORMALISED, GATES)}
    assert counter.get_flop_counts()["Global"].keys() == operators
    assert counter.get_total_flops() == 2 * 4 * S.numel()


def test_the_operator_holds_what_torch_asks_of_it() -> None:
    log_a, k, v, q, S, z = inputs(2, False, 4, 5)
    flat = [x.detach().flatten(2, 3).requires_grad_() for x in (k, q)]
    x = [y.detach().flatten(2, 3).requires_grad_() for y in (v, log_a)]
    state, sums = (y.detach().flatten(1, 2).requires_grad_() for y in (S, z))
    arguments = (x, [], [], [*flat, sums], packed(2), state, True)
    torch.library.opcheck(chunked_gates.NORMALISED.fused, arguments, test_utils=ASKED)
