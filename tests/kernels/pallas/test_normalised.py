"""Scans of outer products with a normaliser in the interpreted kernels, against the array code in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from archc.fuse.scans import fused_scans
from archc.specs_index import program
from tests.fuse.conftest import mixer  # noqa: F401, RUF100  (a fixture)
from tests.fuse.test_normalisers import BODY
from tests.kernels.pallas.conftest import close, positions, quick
from tests.kernels.pallas.generated import gates_of

GROUPS, HEADS, KEYS, VALUES = 2, 2, 3, 5


pytestmark = pytest.mark.usefixtures("small_chunks")


def drawn(rng, time, shared):
    """k, q, S and z; keys and queries are positive, as those of linear attention."""

    def positive(*shape):
        return jnp.exp(jnp.asarray(rng.normal(size=shape)))

    heads = 1 if shared else HEADS
    k, q = positive(2, time, GROUPS, heads, KEYS), positive(2, time, GROUPS, heads, KEYS)
    return k, q, positive(2, GROUPS, HEADS, KEYS, VALUES), positive(2, GROUPS, HEADS, KEYS)


@pytest.mark.parametrize(("impl", "time", "shared"), [("tpu", 16, False), ("gpu", 21, True)])
def test_both_read_outs_and_all_gradients_are_those_of_the_array_code(kernels, pulled, rng, impl, time, shared):
    k, q, S, z = drawn(rng, time, shared)
    log_a = -jnp.exp(2 * jnp.asarray(rng.normal(size=(2, time, GROUPS, HEADS))))
    v, pos = jnp.asarray(rng.normal(size=(2, time, GROUPS, HEADS, VALUES))), jnp.asarray(positions(2, time))

    def op(impl):
        def run(log_a, k, v, q, S, z):
            scan = kernels.normalised_scan.normalised_chunked_scan
            return scan(log_a, k, v, q, pos, (S, z), impl=impl, interpret=True)

        return run

    arrays = log_a, k, v, q, S, z
    close(pulled(op(impl), *arrays), pulled(op("xla"), *arrays), 1e-8, 1e-10)


def divided(build, name):
    """Linear attention, which forgets nothing, or one with a decay and an output gate."""
    if name == "gated":
        graph = build(BODY.format(decay="a", result="(y * sigmoid(x @ W_g[heads value]))"))
    else:
        graph = program(name).graph
    return next(fused for fused in fused_scans(graph).values() if fused.normaliser is not None)


@pytest.mark.parametrize(
    ("name", "impl", "time"),
    [("gated", "tpu", 21), ("gated", "gpu", 19), ("linear_transformer:tiny", "tpu", 1)],
)
def test_what_is_divided_by_the_normaliser_never_leaves_the_kernel(kernels, pulled, mixer, rng, name, impl, time):  # noqa: F811
    """A share of the gradient of the normaliser comes of every slice of the values."""
    gates = gates_of(kernels, divided(mixer, name))
    k, q, S, z = drawn(rng, time, name == "gated")
    widths = [VALUES if side == "values" else 1 for side in gates.x_sides]
    x = tuple(jnp.asarray(rng.uniform(0.1, 0.9, size=(2, time, GROUPS, HEADS, width))) for width in widths)
    pos = jnp.asarray(positions(2, time))

    def op(impl):
        def run(x, k, q, S, z):
            scan = kernels.normalised_scan.gated_normalised_scan
            return scan(gates, x, (), k, q, pos, (S, z), impl=impl, interpret=True)

        return run

    close(pulled(op(impl), x, k, q, S, z), pulled(op("xla"), x, k, q, S, z), 1e-8, 1e-10)


def test_the_normaliser_is_summed_in_single_precision_whatever_comes_in(kernels, rng):
    given = [x.astype(jnp.bfloat16) for x in drawn(rng, 20, True)]
    v, pos = jnp.ones((2, 20, GROUPS, HEADS, VALUES), jnp.bfloat16), jnp.asarray(positions(2, 20), jnp.int32)

    def run(impl):
        def scanned(k, q, S, z):
            scan = kernels.normalised_scan.normalised_chunked_scan
            return scan(jnp.zeros(()), k, v, q, pos, (S, z), impl=impl, interpret=True)

        return quick(scanned)

    with jax.enable_x64(False):
        (_, norm), (_, sums) = run("tpu")(*given)
    (_, wanted), (_, wanted_sums) = run("xla")(*(x.astype(float) for x in given))
    assert (norm.dtype, sums.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(sums, wanted_sums, rtol=1e-6)
    np.testing.assert_allclose(norm.astype(float), wanted, rtol=2**-8)  # rounded once, when it is given back
