"""Equations around scans with a decay per key inside of the interpreted kernels, against the array code around them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from archc.emit.outer import outer_axes
from archc.fuse.scans import fused_scans
from archc.specs_index import program
from tests.kernels.pallas.conftest import close, positions
from tests.kernels.pallas.generated import gates_of
from tests.kernels.triton.interpreted.test_drawn import gated_keys
from tests.parity.agreement import checked

GROUPS, HEADS, KEYS, VALUES = 2, 2, 3, 5
OF_WEIGHTS = Path(__file__).parents[2] / "parity" / "cases" / "keys_that_only_weights_have.arch"


pytestmark = pytest.mark.usefixtures("small_chunks")


def scan_of(source):
    """The one of a drawn model, of a spec, or of a case."""
    if isinstance(source, int):
        found = gated_keys(source)
    else:
        found = program(source) if isinstance(source, str) else checked(source.read_text("utf-8"))
    fused = next(iter(fused_scans(found.graph).values()))
    assert fused.gates is not None, fused.reason
    return fused


def drawn(rng, gates, fused, time):
    """x, of which heads share what has no axis of heads, w and a state; bounds of decays are between 0 and a half."""
    width, axes = {"values": VALUES, "keys": KEYS, "head": 1}, outer_axes(fused.found)

    def shape(handed, side):
        both = (axes.groups, GROUPS), (axes.heads, HEADS)
        return (*(size if {a.name for a in each} <= set(handed.axes) else 1 for each, size in both), width[side])

    x = [(2, time, *shape(h, side)) for h, side in zip(fused.inputs, gates.x_sides, strict=True)]
    w = [shape(h, side) for h, side in zip(fused.weights, gates.w_sides, strict=True)]
    state = rng.normal(size=(2, GROUPS, HEADS, KEYS, VALUES))
    x, w = [rng.normal(size=each) for each in x], [rng.uniform(size=each) / 2 for each in w]
    return jax.tree.map(jnp.asarray, (tuple(x), tuple(w), state))


def runs(kernels, source, rng, time, impls):
    """The scan on each of the machines as functions of x, w and a state, and these."""
    fused = scan_of(source)
    gates, pos = gates_of(kernels, fused), jnp.asarray(positions(2, time), jnp.int32)

    def on(impl):
        def run(x, w, S):
            scan = kernels.gated_key_scan.gated_chunked_key_scan
            return scan(gates, x, w, pos, S, impl=impl, interpret=True)

        return run

    return [on(impl) for impl in impls], drawn(rng, gates, fused, time)


CASES = [
    ("rwkv6:tiny", "tpu", 20),
    (OF_WEIGHTS, "gpu", 1),
    (8, "tpu", 17),
    (21, "gpu", 20),
]


@pytest.mark.parametrize(("source", "impl", "time"), CASES)
def test_equations_in_the_kernel_are_those_around_it(kernels, pulled, rng, source, impl, time):
    """Values and all gradients, with states that come in and go out, where documents start anywhere."""
    (inside, around), arrays = runs(kernels, source, rng, time, (impl, "xla"))
    close(pulled(inside, *arrays), pulled(around, *arrays), 1e-8, 1e-10)


@pytest.mark.parametrize(("impl", "dtype"), [("gpu", "bfloat16")])
def test_half_precision_is_as_exact_as_its_operands(kernels, pulled, rng, impl, dtype):
    """Sums and states are in single precision, whatever the tokens are in; gradients have the type of theirs."""
    (inside, around), arrays = runs(kernels, "rwkv6:tiny", rng, 20, (impl, "xla"))
    x, w, S = jax.tree.map(lambda z: z / 4, arrays)  # what comes back for results near zero is exact
    half = tuple(z.astype(dtype) for z in x)
    wanted = pulled(around, tuple(z.astype(float) for z in half), w, S)
    with jax.enable_x64(False):
        single = (z.astype(jnp.float32) for z in (*w, S))
        *w, S = single
        (y, last), (dx, dw, dS) = found = pulled(inside, half, tuple(w), S)
    assert {z.dtype for z in (y, *dx)} == {jnp.dtype(dtype)}
    assert {z.dtype for z in (last, *dw, dS)} == {jnp.dtype("float32")}
    for one, right in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        np.testing.assert_allclose(np.asarray(one, float), right, rtol=0, atol=0.03 * np.abs(right).max())


def test_what_is_read_of_a_state_is_a_number_where_a_slice_has_no_values_left(kernels, pulled, rng):
    """The logarithm of what is read before the first update, which is positive for all values that there are."""

    def out_grad(y, x, w, do):
        return do / y, tuple(map(jnp.zeros_like, x)), ()

    gates = kernels.chunked_scan.given(per_key=True, before=True)
    gates = gates._replace(out=lambda y, x, w: jnp.log(y), out_grad=out_grad)
    pos = jnp.arange(4, 8)

    def on(impl):
        def run(v, log_a, k, q, S):
            scan = kernels.gated_key_scan.gated_chunked_key_scan
            return scan(gates, (v, -log_a, k, q), (), jnp.stack([pos]), S, impl=impl, interpret=True)

        return run

    shapes = ((1, 4, 1, 1, VALUES), *[(1, 4, 1, 1, KEYS)] * 3, (1, 1, 1, KEYS, VALUES))
    arrays = [jnp.asarray(rng.uniform(0.5, 1, size=shape)) for shape in shapes]
    close(pulled(on("gpu"), *arrays), pulled(on("xla"), *arrays), 1e-8, 1e-10)
