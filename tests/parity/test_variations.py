"""Specs with one line written otherwise: PyTorch, Flax and the reference agree on each of them."""

from __future__ import annotations

import pytest
import torch
from archc.backends.torch.target import TorchTarget

from archc.elaborate import Program
from archc.emit.project import model_code
from archc.specs_index import program
from tests.equations.test_equations import ABLATIONS
from tests.equations.variations import BILINEAR, DYNAMIC, varied
from tests.parity.agreement import check_bfloat16, check_flax, check_torch


def check(program: Program) -> None:
    check_torch(program)
    check_bfloat16(program)
    check_flax(program)


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_of_composed_heads(name: str) -> None:
    other = f"dc_attention(rms_norm(x), heads, mask, {ABLATIONS[name][0]})"
    check(varied("dcformer", DYNAMIC, other, width=32, depth=2, hidden=16, window=4, vocab=97))


def test_a_bilinear_state_space() -> None:
    check(varied("s4d", *BILINEAR, width=16))


def test_a_norm_of_what_a_kernel_has_rounded_takes_its_scale_in_the_same_type() -> None:
    """PyTorch warns otherwise, of the first one in a process unless it is told to warn always."""
    torch.set_warn_always(True)
    try:
        check_bfloat16(program("hgrn", {"width": 8, "depth": 1, "hidden": 8, "vocab": 11}))
    finally:
        torch.set_warn_always(False)


ROUNDED = """
fn squash(h[width]) { return tanh(h) }
model rounded(width = 8, vocab = 11) {
    x = E[vocab width](tokens)
    h = scan(decay = sigmoid(x @ W_a[width -> width']), input = fp32(tanh(x)))
    return squash(h) @ U[width -> vocab]
}
"""


def test_what_is_computed_from_what_a_kernel_has_rounded_is_not_cast_again() -> None:
    found = program(ROUNDED)
    code = model_code(found, TorchTarget(), context=16)["model.py"]
    assert "return squash(h) @ self.U" in code
    check_bfloat16(found)


NAMED = """
model named(width = 8, vocab = 11) {
    x = E[vocab width](tokens)
    s = sigmoid(x @ W_s[width])
    t = s * (1 - s)
    return (sqrt(t) + t ^ 0.3 + t) @ U[width -> vocab]
}
"""


def test_a_sigmoid_that_a_line_reads_has_one_of_its_own() -> None:
    found = program(NAMED)
    code = model_code(found, TorchTarget(), context=16)["model.py"]
    assert code.count("torch.sigmoid(") == 1
    assert "t = s * (1 - s)" in code
    check_torch(found)
