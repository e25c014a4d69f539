"""`scan` on the Triton kernel against `scan` as operations on tensors, which has tests of its own."""

import kernels.operators
import pytest
import torch
from kernels.scan import scan
from torch import Tensor

POS = torch.stack([torch.cat([torch.arange(3, 9), torch.arange(14)]), torch.arange(20) - 2])


def both(monkeypatch: pytest.MonkeyPatch, a: Tensor | float, u: Tensor, pos: Tensor, state: Tensor | None) -> None:
    """Values, the last state and gradients are the same on both ways."""
    results = []
    for interpreted in (True, False):
        monkeypatch.setattr(kernels.operators, "INTERPRETED", interpreted)
        outputs = [each for each in scan(a, u, pos, state) if each is not None]
        assert any("archc" in node.name() for node in _history(outputs[0])) is interpreted
        inputs = [each for each in (a, u, state) if isinstance(each, Tensor)]
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(each.shape, generator=generator).to(each.dtype) for each in outputs]
        results.append([*outputs, *torch.autograd.grad(outputs, inputs, weights)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


def _history(y: Tensor) -> set[torch.autograd.graph.Node]:
    todo, found = [y.grad_fn], set[torch.autograd.graph.Node]()
    while todo:
        node = todo.pop()
        if node is not None and node not in found:
            found.add(node)
            todo += [each for each, _ in node.next_functions]
    return found


@pytest.mark.parametrize("shape", [(), (3, 1), (1, 1, 3, 1), (20, 1, 5), (2, 20, 3, 5)])
def test_a_decay_may_lack_axes(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    a = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    u = torch.randn(2, 20, 3, 5, dtype=torch.float64, requires_grad=True)
    both(monkeypatch, a, u, POS, torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True))


def test_a_number_may_be_the_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    both(monkeypatch, 0.5, torch.randn(2, 20, 3, dtype=torch.float64, requires_grad=True), torch.arange(20), None)


def test_half_precision_comes_back_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    a = torch.rand(2, 20, 3, requires_grad=True)
    both(
        monkeypatch,
        a,
        torch.randn(2, 20, 3, dtype=torch.bfloat16, requires_grad=True),
        POS,
        torch.randn(2, 3, requires_grad=True),
    )


def test_complex_numbers_stay_operations_on_tensors() -> None:
    u = torch.randn(2, 4, 3)
    h, _ = scan(0.5j, u, torch.arange(4))
    torch.testing.assert_close(h[:, 1], u[:, 1] + 0.5j * u[:, 0])
