"""The functions that Triton and Pallas lack, as the kernels bring them along, against NumPy and the table of ops."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from archc.backends.flax import gates as flax_gates

from archc.fuse.dag import new_nodes
from archc.ops.node import of
from archc.reference.frame import Array
from tests.fuse.numeric import evaluate
from tests.fuse.workers import Worker, kernel_file, worker

__all__ = ["worker"]  # a fixture

SPREAD = np.concatenate([s * np.logspace(-9, 2, 64) for s in (-1, 1)]).reshape(8, 16)  # tiny, small, large
POSITIVE = np.abs(SPREAD)
FUNCTIONS: dict[str, tuple[str, Array]] = {  # of Triton, by the op of the table that each computes, and where
    "expm1": ("expm1({x})", np.clip(SPREAD, -100, 80)),
    "log1p": ("log1p({x})", np.maximum(SPREAD, -0.999)),
    "softplus": ("softplus({x})", np.maximum(SPREAD, -80)),
    "inv_softplus": ("inv_softplus({x})", POSITIVE),
    "tanh": ("tanh({x})", SPREAD),
    "silu": ("silu({x})", np.maximum(SPREAD, -80)),
    "gelu": ("gelu({x})", SPREAD),
    "gelu_tanh": ("gelu_tanh({x})", np.clip(SPREAD, -8, 8)),
    "sign": ("sign({x})", SPREAD),
    "relu": ("at_least({x}, 0.0)", SPREAD),
}
ABSOLUTE = {"gelu", "silu", "gelu_tanh"}  # their tails vanish; what counts is the distance from the line that x is


def reference(op: str, x: Array) -> Array:
    """The op's own reference, in double precision, of what is handed in."""
    leaf = new_nodes().leaf("x")
    return evaluate([of(op, leaf)], {leaf: x.astype(np.float64)})[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_functions_that_triton_lacks_are_exact_everywhere(worker: Worker, name: str, dtype: Any) -> None:
    text, x = FUNCTIONS[name]
    x = x.astype(dtype)
    want = reference(name, x)
    if name == "inv_softplus":
        want = x + np.log(-np.expm1(-x.astype(np.float64)))
    found = worker(
        module(text.format(x="xs[0]")), {"x0": x, "w0": x[:1], "first": x[:, :1], "d0": x, "d1": x, "read": x}
    )
    close(found["gates"][0], want, dtype, name)


def module(expression: str) -> str:
    """A module of device functions, of which the first gate matters."""
    return (
        "import triton\nimport triton.language as tl\nfrom kernels.device import *\n\n"
        f"@triton.jit\ndef g_device(xs, ws, first):\n    return {expression}, xs[0]\n\n"
        "@triton.jit\ndef g_grad(xs, ws, first, da, du):\n    return (da,), (du,)\n"
    )


def close(found: Array, want: Array, dtype: Any, name: str) -> None:
    """Within eight units in the last place; of the size of the value, or of one where it vanishes."""
    assert found.dtype == dtype
    unit = 8 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(found, want, rtol=unit, atol=unit if name in ABSOLUTE else 0)


@pytest.mark.parametrize("exponent", [-2.5, -2.0, 0.0, 0.3, 3.0])
def test_powers_are_those_of_numpy(worker: Worker, exponent: float) -> None:
    x = np.concatenate([-np.linspace(0.2, 3, 16), np.linspace(0.2, 3, 16)]).reshape(2, 16)
    arrays = {"x0": x, "w0": x[:1], "first": x[:, :1], "d0": x, "d1": x, "read": x}
    with np.errstate(invalid="ignore"):
        want = x**exponent
    np.testing.assert_allclose(worker(module(f"power(xs[0], {exponent})"), arrays)["gates"][0], want, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [name for name in flax_gates.DEVICE if name in FUNCTIONS])
def test_the_functions_that_pallas_lacks_are_exact_everywhere(name: str, dtype: Any) -> None:
    place: dict[str, Any] = {}
    exec(kernel_file("flax", "device"), place)
    x = FUNCTIONS[name][1].astype(dtype)
    want = reference(name, x)
    with jax.enable_x64(True):
        close(np.asarray(place[name](jnp.asarray(x))), want, dtype, name)
