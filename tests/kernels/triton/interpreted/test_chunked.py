"""The fused scans of outer products in Triton's interpreter, against the recurrence written out in double precision."""

import pytest
import torch
from archc.backends.torch.executed import TorchKernels
from kernels import chunk_sizes, chunked_gates, chunked_key_gates, chunked_key_launch, chunked_launch
from kernels.chunked_scan import chunked_key_scan, chunked_scan
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from archc.emit.executed import Heads

KERNELS = pytest.mark.parametrize("kernel", [chunked_scan, chunked_key_scan])
GROUPS, HEADS = 2, 2
ASKED = ("test_schema", "test_autograd_registration", "test_faketensor")  # the rest takes the interpreter too long


def slow(log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """log_a: [B, T, G, H] or [B, T, G, H, K]."""
    ys = []
    for t in range(v.shape[1]):
        kept = (pos.expand(v.shape[:2])[:, t] != 0).to(S.dtype).reshape(-1, 1, 1)
        decay = log_a[:, t].exp().reshape(*v.shape[:1], *v.shape[2:4], -1, 1)
        S = kept[..., None, None] * decay * S + k[:, t, ..., None] * v[:, t, :, :, None]
        ys.append((q[:, t, ..., None] * S).sum(-2))
    return torch.stack(ys, 1), S


def inputs(
    kernel: object,
    time: int,
    shared: str = "",
    sizes: tuple[int, int] = (4, 5),
    strength: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """log_a, k, v, q of two sequences."""
    torch.manual_seed(time)
    key, value = sizes
    log_a = -strength * torch.rand(2, time, GROUPS, HEADS, *((key,) if kernel is chunked_key_scan else ()))
    k = torch.randn(2, time, GROUPS, 1 if "k" in shared else HEADS, key)
    v = torch.randn(2, time, GROUPS, HEADS, value)
    q = torch.randn(2, time, GROUPS, 1 if "q" in shared else HEADS, key)
    wide = torch.promote_types(dtype, torch.float32)
    return [x.to(d).requires_grad_() for x, d in zip((log_a, k, v, q), (wide, dtype, dtype, dtype), strict=True)]


def packed(time: int) -> Tensor:
    """A document that goes on, one of a single token, one that ends with a chunk; and padding on the left."""
    row = torch.cat([torch.arange(4, 6), torch.arange(1), torch.arange(13), torch.arange(22), torch.arange(time)])
    return torch.stack([row[:time], torch.arange(time) - 2])


def before(sizes: tuple[int, int] = (4, 5)) -> Tensor:
    return torch.randn(2, GROUPS, HEADS, *sizes, dtype=torch.float64, requires_grad=True)


def gradients(outputs: tuple[Tensor, Tensor], wanted: list[Tensor]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, wanted, weights)


def assert_same(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def distance(mine: Tensor, theirs: Tensor) -> float:
    return float((mine.detach().double() - theirs.detach()).norm() / theirs.detach().norm())


EXACT = [(chunked_scan, *case) for case in [(1, ""), (1, "kq"), (3, "q"), (53, ""), (53, "kq"), (32, "k")]]
EXACT += [(chunked_key_scan, *case) for case in [(1, "k"), (3, "kq"), (21, "q")]]


@pytest.mark.parametrize(("kernel", "time", "shared"), EXACT)
def test_values_and_gradients_are_exact_with_restarts_and_states(kernel, time: int, shared: str) -> None:
    operands, state = inputs(kernel, time, shared), before()
    mine, theirs = (scan(*operands, packed(time), state) for scan in (kernel, slow))
    assert_same(mine, theirs)
    assert_same(gradients(mine, [*operands, state]), gradients(theirs, [*operands, state]))


@KERNELS
def test_many_keys_run_in_parts(kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five keys as three and two, four as two and two."""
    monkeypatch.setattr(chunk_sizes, "MOST_KEYS", 3)
    sizes, time = ((5, 4), 18) if kernel is chunked_scan else ((4, 5), 3)
    operands, state = inputs(kernel, time, "k", sizes), before(sizes)
    mine, theirs = kernel(*operands, packed(time), state), slow(*operands, packed(time), state)
    wanted = [*operands, state]
    assert_same((*mine, *gradients(mine, wanted)), (*theirs, *gradients(theirs, wanted)))


@pytest.mark.parametrize(
    ("kernel", "time", "sizes"),
    [
        (chunked_scan, 19, (20, 33)),
        (chunked_scan, 19, (16, 16)),
        (chunked_scan, 19, (1, 1)),
        (chunked_key_scan, 2, (20, 33)),
    ],
)
def test_keys_and_values_that_do_not_fill_tiles(kernel, time: int, sizes: tuple[int, int]) -> None:
    operands, state = inputs(kernel, time, "kq", sizes), before(sizes)
    mine, theirs = (scan(*operands, packed(time), state) for scan in (kernel, slow))
    assert_same(mine, theirs)
    assert_same(gradients(mine, [*operands, state]), gradients(theirs, [*operands, state]))


@KERNELS
def test_a_whole_document_does_not_read_the_state_but_leaves_one(kernel) -> None:
    operands, pos, zeros = inputs(kernel, 17), torch.arange(17), torch.zeros_like(before())
    theirs = slow(*operands, pos, zeros)
    mine = kernel(*operands, pos, zeros + 1e9)
    assert_same(mine, theirs)
    assert_same(gradients(mine, operands), gradients(theirs, operands))
    y, none = kernel(*operands, pos)
    assert none is None
    theirs = slow(*operands, pos, zeros)
    assert_same((y,), theirs[:1])
    assert_same(torch.autograd.grad(y.sum(), operands), torch.autograd.grad(theirs[0].sum(), operands))


@pytest.mark.parametrize(("kernel", "cuts"), [(chunked_scan, [1, 1, 20, 12]), (chunked_key_scan, [1, 15, 2])])
def test_pieces_with_a_state_are_the_whole(kernel, cuts: list[int]) -> None:
    time = sum(cuts)
    operands, pos, pieces = [x.detach() for x in inputs(kernel, time)], packed(time), []
    state = zeros = torch.zeros_like(before())
    for parts in zip(*(x.split(cuts, 1) for x in (*operands, pos)), strict=True):
        y, state = kernel(*parts, state)
        pieces.append(y)
    assert_same((torch.cat(pieces, 1), state), slow(*operands, pos, zeros))


STRENGTHS = [(chunked_scan, 53, strength) for strength in (1e-4, 5.0, 200.0)]
STRENGTHS += [(chunked_key_scan, 21, strength) for strength in (1e-4, 200.0)]


@pytest.mark.parametrize(("kernel", "time", "strength"), STRENGTHS)
def test_weak_and_strong_decays_in_single_precision(kernel, time: int, strength: float) -> None:
    operands = inputs(kernel, time, "kq", strength=strength, dtype=torch.float32)
    state = before().detach().float().requires_grad_()
    wide = [x.detach().double().requires_grad_() for x in (*operands, state)]
    mine, theirs = kernel(*operands, packed(time), state), slow(*wide[:-1], packed(time), wide[-1])
    found, expected = gradients(mine, [*operands, state]), gradients(theirs, wide)
    of_decay = 2e-5 if kernel is chunked_key_scan else 3e-6  # a small difference of `q dq` and `k dk`
    assert distance(found[0], expected[0]) < of_decay
    for one, other in zip((*mine, *found[1:]), (*theirs, *expected[1:]), strict=True):
        assert distance(one, other) < 1e-6


@KERNELS
def test_a_decay_of_zero_forgets(kernel) -> None:
    log_a, *operands = (x.detach() for x in inputs(kernel, 9))
    log_a[:, 6] = -torch.inf
    y, _ = kernel(log_a, *operands, torch.arange(9))
    alone, _ = kernel(log_a[:, 6:], *(x[:, 6:] for x in operands), torch.arange(3))
    assert_same((y[:, 6:],), (alone,))


@pytest.mark.parametrize(
    ("kernel", "time", "dtype"),
    [(chunked_scan, 40, torch.float16), (chunked_scan, 40, torch.bfloat16), (chunked_key_scan, 10, torch.bfloat16)],
)
def test_sums_are_in_single_precision_whatever_comes_in(kernel, time: int, dtype: torch.dtype) -> None:
    operands, state = inputs(kernel, time, "kq", dtype=dtype), before().detach().float().requires_grad_()
    wide = [x.detach().double().requires_grad_() for x in (*operands, state)]
    mine, theirs = kernel(*operands, packed(time), state), slow(*wide[:-1], packed(time), wide[-1])
    assert (mine[0].dtype, mine[1].dtype) == (dtype, torch.float32)
    assert distance(mine[1], theirs[1]) < 1e-6
    found, expected = gradients(mine, [*operands, state]), gradients(theirs, wide)
    for one, other in zip((mine[0], *found), (theirs[0], *expected), strict=True):
        assert distance(one, other) < 1e-2


@KERNELS
@pytest.mark.parametrize(("time", "shared", "keys"), [(7, "", 4), (70, "kq", 4), (70, "", 256), (70, "kq", 131)])
def test_the_counter_sees_what_the_report_says(kernel, time: int, shared: str, keys: int) -> None:
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        y, _ = kernel(*inputs(kernel, time, shared, (keys, 5)), torch.arange(time))
        forward = counter.get_total_flops()
        y.sum().backward()
        total = counter.get_total_flops()
    kind = "chunked_key" if kernel is chunked_key_scan else "chunked"
    said = TorchKernels(fused=True).chunked(kind, time, Heads(GROUPS, HEADS, keys, 5, bool(shared), True)) * 2
    assert (forward, total) == (said.forward, said.train)


def test_the_operators_hold_what_torch_asks_of_them() -> None:
    state = before().detach().flatten(1, 2).requires_grad_()
    for kernel in (chunked_scan, chunked_key_scan):
        log_a, k, v, q = (x.detach().flatten(2, 3).requires_grad_() for x in inputs(kernel, 2))
        if kernel is chunked_scan:
            operator, operands = chunked_gates.PLAIN.fused, ([v, log_a], [], [], [k, q], packed(2), state, False)
        else:
            operator, operands = chunked_key_gates.PLAIN.fused, ([v, log_a, k, q], [], [], [], packed(2), state, False)
        torch.library.opcheck(operator, operands, test_utils=ASKED)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("kernel", "shared", "sizes"), [(chunked_scan, "kq", (20, 33)), (chunked_key_scan, "q", (3, 5))]
)
def test_one_token_is_one_kernel_where_no_gradient_is_wanted(
    kernel, shared: str, sizes, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that goes on and one that starts; late: what is read is the state before the update."""
    monkeypatch.setattr(chunked_launch, "chunked_forward", None)  # those of sequences
    monkeypatch.setattr(chunked_key_launch, "chunked_key_forward", None)
    operands = [x.detach() for x in inputs(kernel, 1, shared, sizes)]
    state, pos = before(sizes).detach(), torch.tensor([[3], [0]])
    with FlopCounterMode(display=False) as counter:
        y, last = kernel(*operands, pos, state, before=late)
    right, end = slow(*operands, pos, state)
    if late:
        started = state * (pos != 0)[..., None, None, None]
        right = (operands[3][:, 0, ..., None] * started).sum(-2)[:, None]
    assert_same((y, last), (right, end))
    assert len(counter.get_flop_counts()["Global"]) == 1
    assert counter.get_total_flops() == 4 * state.numel()
