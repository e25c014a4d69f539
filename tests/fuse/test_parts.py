"""Complex equations as pairs of real ones, against NumPy's complex numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from archc.fuse.dag import new_nodes
from archc.fuse.parts import PARTS, Parts, of_parts
from archc.fuse.scans import fused_scans
from archc.ir.graph import Graph
from tests.fuse.complex_bodies import ENDS, REAL_ENDS, complex_body
from tests.fuse.evaluation import leaves, run
from tests.fuse.numeric import evaluate
from tests.fuse.test_scans import check_derivatives, check_values, read_out, with_gates

NUMPY: dict[str, Callable[..., object]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative, "abs": np.abs,
    "exp": np.exp, "sin": np.sin, "cos": np.cos, "eq": np.equal, "ne": np.not_equal, "real": np.real, "imag": np.imag,
    "complex": lambda a, b: a + 1j * b, "where": lambda c, a, b: np.where(c != 0, a, b), "fp32": np.positive,
}  # fmt: skip
COUNTS = {"where": 3} | dict.fromkeys(("add", "sub", "mul", "div", "eq", "ne", "complex"), 2)


@pytest.mark.parametrize("op", NUMPY)
def test_an_op_of_parts_is_that_of_complex_numbers(op: str) -> None:
    rng, home, count = np.random.default_rng(1), new_nodes(), COUNTS.get(op, 1)
    pairs = [Parts(*(home.leaf(f"x{i}_{part}") for part in PARTS)) for i in range(count)]
    arrays = rng.normal(size=(count, 2, 50))
    arrays[-1, :, :5] = arrays[0, :, :5]  # some are equal
    at = {leaf: array for pair, both in zip(pairs, arrays, strict=True) for leaf, array in zip(pair, both, strict=True)}
    found = evaluate(of_parts(op, pairs), at)
    wanted = NUMPY[op](*(both[0] + 1j * both[1] for both in arrays))
    np.testing.assert_allclose(found[0] + 1j * found[1], wanted, rtol=1e-12)


@pytest.mark.parametrize("power", [-2, -1, 0, 1, 2, 3, 4])
def test_a_whole_power_is_a_product(power: int) -> None:
    home = new_nodes()
    z = Parts(*(home.leaf(part) for part in PARTS))
    x, y = np.random.default_rng(2).normal(size=(2, 20))
    found = evaluate(of_parts("pow", [z, Parts(home.number(power), home.number(0))]), {z.real: x, z.imag: y})
    np.testing.assert_allclose(found[0] + 1j * found[1], (x + 1j * y) ** power, rtol=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_drawn_complex_equations_are_what_the_reference_computes(mixer: Callable[..., Graph], seed: int) -> None:
    graph = mixer(complex_body(seed, ENDS[: len(REAL_ENDS)]))
    check_values(graph)
    (fused,) = with_gates(graph)
    assert fused.is_complex
    assert fused.out is not None
    assert fused.gates is not None
    frame = run(graph)
    for equations, derived, more in (
        (fused.gates, fused.gates_grad, {}),
        (fused.out, fused.out_grad, read_out(frame, fused)),
    ):
        assert derived is not None
        check_derivatives(fused, equations, derived, leaves(frame, fused) | more)


def test_a_complex_state_that_is_read_in_two_ways_is_given_back_in_parts(mixer: Callable[..., Graph]) -> None:
    body = "h = scan(decay = complex(0.5, 0.1), input = complex(x, 2 * x))\nreturn {}"
    for rest, op in (
        ("real(h) @ A[width -> width'] + imag(h) @ B[width -> width']", "scan"),
        ("real(2 * h) + x", "add"),
    ):
        graph = mixer(body.format(rest))
        check_values(graph)
        (fused,) = fused_scans(graph).values()
        assert fused.result.op == op


def test_what_has_no_parts_is_handed_in(mixer: Callable[..., Graph]) -> None:
    """A complex logarithm has an angle, for which there is no real op."""
    (fused,) = with_gates(mixer("z = log(complex(x, 1))\nreturn real(scan(decay = 0.5, input = z * x))"))
    assert [(h.name, h.part) for h in fused.inputs] == [("x", ""), ("z_re", "re"), ("z_im", "im")]
    assert "functions of complex numbers whose parts are not known ('z_re', 'z_im')" in fused.reason
