"""Gated scans of complex states against a loop over tokens of complex numbers in double precision."""

import kernels.gated_tiles
import pytest
import torch
import triton
import triton.language as tl
from kernels.gated_complex import ComplexGates, Parts, gated_complex_scan, joined_parts
from kernels.read_out import Read
from torch import Tensor

from tests.kernels.triton.interpreted.test_gated import CHECKS, assert_same, gradients, packed

Inputs = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


def spiral(
    r: Tensor, t: Tensor, u: Tensor, v: Tensor, rate: Tensor, scale: Tensor, first: Tensor
) -> tuple[Tensor, ...]:
    """A decay sigmoid(r) turned by t, and inputs scaled by a weight; the rate is a weight."""
    size = torch.sigmoid(r) * rate
    return size * torch.cos(t), size * torch.sin(t), scale * u, scale * v


@triton.jit
def spiral_device(x, w, first):
    size = tl.sigmoid(x[0]) * w[0]
    return size * tl.cos(x[1]), size * tl.sin(x[1]), w[1] * x[2], w[1] * x[3]


@triton.jit
def spiral_grad(x, w, first, da_re, da_im, du_re, du_im):
    s = tl.sigmoid(x[0])
    along = da_re * tl.cos(x[1]) + da_im * tl.sin(x[1])
    across = da_im * tl.cos(x[1]) - da_re * tl.sin(x[1])
    dx = (along * w[0] * s * (1.0 - s), across * s * w[0], du_re * w[1], du_im * w[1])
    return dx, (along * s, du_re * x[2] + du_im * x[3])


def square(re: Tensor, im: Tensor, r: Tensor, t: Tensor, u: Tensor, v: Tensor, rate: Tensor, scale: Tensor) -> Tensor:
    """A real result whose slope depends on the state."""
    return (re * re + im) * u


@triton.jit
def square_device(re, im, x, w):
    return (re * re + im) * x[2]


@triton.jit
def square_grad(re, im, x, w, do):
    zero = tl.zeros_like(do)
    return 2.0 * re * x[2] * do, x[2] * do, (zero, zero, (re * re + im) * do, zero), (zero, zero)


def turned(
    re: Tensor, im: Tensor, r: Tensor, t: Tensor, u: Tensor, v: Tensor, rate: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """A complex result, linear in the state: i v h."""
    return -v * im, v * re


@triton.jit
def turned_device(re, im, x, w):
    return -x[3] * im, x[3] * re


@triton.jit
def turned_grad(re, im, x, w, do_re, do_im):
    zero = tl.zeros_like(do_re)
    return x[3] * do_im, -x[3] * do_re, (zero, zero, zero, do_im * re - do_re * im), (zero, zero)


SQUARE = Read(square, square_device, square_grad)
TURNED = Read(turned, turned_device, turned_grad, linear=True)
GATES = {
    "state": ComplexGates(spiral, spiral_device, spiral_grad),
    "state before": ComplexGates(spiral, spiral_device, spiral_grad, before=True),
    "real": ComplexGates(spiral, spiral_device, spiral_grad, SQUARE, real=True),
    "real before": ComplexGates(spiral, spiral_device, spiral_grad, SQUARE, real=True, before=True),
    "complex": ComplexGates(spiral, spiral_device, spiral_grad, TURNED),
}


def slow(gates: ComplexGates, inputs: Inputs, pos: Tensor, state: Tensor | None) -> tuple[Tensor, ...]:
    """The results, in their parts, and the parts of the last state."""
    x, w = inputs
    starts = pos.expand(x[0].shape[:2]) == 0
    parts = gates.plain(*x, *w, starts[..., None])
    a, u = torch.complex(*parts[:2]), torch.complex(*parts[2:])
    h = torch.zeros_like(u[:, 0]) if state is None else state
    out = []
    for t in range(u.shape[1]):
        before = torch.where(starts[:, t, None], 0, h)
        h = a[:, t] * before + u[:, t]
        out.append(before if gates.before else h)
    states = torch.stack(out, 1)
    read = (states.real, states.imag) if gates.read is None else gates.read.plain(states.real, states.imag, *x, *w)
    return (*([read] if isinstance(read, Tensor) else read), h.real, h.imag)


def inputs(batch: int, time: int, width: int, dtype: torch.dtype = torch.float64) -> Inputs:
    x = tuple(torch.randn(batch, time, width).to(dtype).requires_grad_() for _ in range(4))
    wide = torch.promote_types(dtype, torch.float32)
    return x, tuple(torch.rand(width).to(wide).requires_grad_() for _ in range(2))


def run(gates: ComplexGates, given: Inputs, pos: Tensor, state: Tensor | None) -> tuple[Tensor, ...]:
    y, last = gated_complex_scan(gates, *given, pos, state)
    both = tuple(y) if isinstance(y, Parts) else (y,)
    return both if last is None else (*both, last.real, last.imag)


def compare(gates: ComplexGates, given: Inputs, pos: Tensor, state: Tensor | None) -> None:
    """Values and all gradients, those of the states that come and go with them."""
    wanted = [*given[0], *given[1]] + ([] if state is None or pos.dim() == 1 else [state])
    mine = run(gates, given, pos, state)
    theirs = slow(gates, given, pos, None if pos.dim() == 1 else state)[: len(mine)]
    assert_same((*mine, *gradients(mine, wanted)), (*theirs, *gradients(theirs, wanted)))


def drawn_state(batch: int, width: int) -> Tensor:
    return torch.randn(batch, width, dtype=torch.complex128, requires_grad=True)


@pytest.mark.parametrize("name", ["state", "real before", "complex"])
def test_the_scan_is_the_loop_of_complex_numbers(name: str) -> None:
    compare(GATES[name], inputs(2, 19, 5), packed(19), drawn_state(2, 5))


@pytest.mark.parametrize(("time", "width"), [(5, 17), (1, 3)])
def test_any_length_and_width_will_do(time: int, width: int) -> None:
    compare(GATES["real"], inputs(1, time, width), torch.arange(time), None)


@pytest.mark.parametrize("name", ["state", "real before"])
def test_one_token_goes_on_from_the_state(name: str) -> None:
    compare(GATES[name], inputs(3, 1, 4), torch.tensor([[7], [0], [-1]]), drawn_state(3, 4))


@pytest.mark.parametrize(("name", "packs"), [("state", True), ("real before", False)])
def test_pieces_of_time_side_by_side_are_one_pass(monkeypatch: pytest.MonkeyPatch, name: str, packs: bool) -> None:
    monkeypatch.setattr(kernels.gated_tiles, "SHORTEST", 8)
    time, width = 37, 3
    assert kernels.gated_tiles.piece_length(2, time, width, 0) == 32
    state = drawn_state(2, width) if packs else None
    compare(GATES[name], inputs(2, time, width), packed(time) if packs else torch.arange(time), state)


def test_gates_without_a_device_function_are_operations_on_tensors() -> None:
    for name in ("state before", "real"):
        gates = GATES[name]
        read = gates.read and Read(gates.read.plain)
        plain = ComplexGates(spiral, read=read, real=gates.real, before=gates.before)
        compare(plain, inputs(2, 7, 3), packed(7), drawn_state(2, 3))


def test_sums_are_single_precision_whatever_comes_in() -> None:
    x, w = inputs(2, 9, 5, torch.bfloat16)
    y, last = gated_complex_scan(GATES["state"], x, w, packed(9), torch.zeros(2, 5, dtype=torch.complex64))
    assert last is not None
    assert isinstance(y, Parts)
    assert (y.real.dtype, last.dtype, joined_parts(y).dtype) == (torch.bfloat16, torch.complex64, torch.complex64)
    wide = tuple(each.detach().double() for each in (*x, *w))
    right = slow(GATES["state"], (wide[:4], wide[4:]), packed(9), None)
    assert_same(tuple(part.double() for part in y), right[:2], 8e-3)
    assert_same((last.real.double(), last.imag.double()), right[2:], 1e-5)
    got = torch.autograd.grad([y.real.sum()], [*x, *w])  # of one part alone
    assert [g.dtype for g in got] == [torch.bfloat16] * 4 + [torch.float32] * 2


@pytest.mark.parametrize("name", ["state", "real"])
def test_the_operator_is_one_that_torch_understands(name: str) -> None:
    (x, w), state = inputs(2, 9, 3, torch.float32), torch.randn(2, 2, 3, requires_grad=True)
    fused = GATES[name].fused
    assert fused is not None
    torch.library.opcheck(fused, (list(x), list(w), [], [], packed(9), state, True), test_utils=CHECKS)
