"""Equations around scans of outer products inside of the interpreted kernels, against the array code around them."""

import jax.numpy as jnp
import pytest

from archc.fuse.scans import fused_scans
from archc.specs_index import program
from tests.kernels.pallas.conftest import close, positions
from tests.kernels.pallas.generated import gates_of
from tests.kernels.triton.interpreted.test_drawn import gated_outer

GROUPS, HEADS, KEYS, VALUES = 2, 2, 3, 5


pytestmark = pytest.mark.usefixtures("small_chunks")


def drawn(rng, gates, time):
    """x, w, k, q and a state; weights are positive, as those in front of a decay must be."""

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape))

    def width(side):
        return VALUES if side == "values" else 1

    x = tuple(normal(2, time, GROUPS, HEADS, width(side)) for side in gates.x_sides)
    w = tuple(jnp.exp(normal(GROUPS, HEADS, width(side)) / 2) for side in gates.w_sides)
    return x, w, normal(2, time, GROUPS, 1, KEYS), normal(2, time, GROUPS, HEADS, KEYS), normal(2, GROUPS, HEADS, KEYS, VALUES)  # fmt: skip  # noqa: E501


CASES = [
    ("mamba2:tiny", "tpu", 37),
    (1, "gpu", 1),
    (13, "tpu", 16),
    (15, "gpu", 37),
]


@pytest.mark.parametrize(("source", "impl", "time"), CASES)
def test_equations_in_the_kernel_are_those_around_it(kernels, pulled, rng, source, impl, time):
    """Values and all gradients, with states that come in and go out, where documents start anywhere."""
    graph = (program(source) if isinstance(source, str) else gated_outer(source)).graph
    (fused,) = fused_scans(graph).values()
    gates, pos = gates_of(kernels, fused), jnp.asarray(positions(2, time))
    numbers = tuple(0.5 + i for i, _ in enumerate(fused.numbers))

    def op(impl):
        def run(x, w, k, q, S):
            scan = kernels.chunked_scan.gated_chunked_scan
            return scan(gates, x, w, k, q, pos, S, numbers=numbers, impl=impl, interpret=True)

        return run

    arrays = drawn(rng, gates, time)
    close(pulled(op(impl), *arrays), pulled(op("xla"), *arrays), 1e-8, 1e-10)


def test_tokens_that_are_not_there_have_no_share_in_gradients(kernels, pulled, rng):
    """The slope of a logarithm is infinite where nothing is read, as by what fills up a chunk."""
    gates = kernels.gated.Gates(
        lambda x, w, first: (x[1], x[0]),
        lambda x, w, first, dlog_a, dv: ((dv, dlog_a), ()),
        lambda read, x, w: jnp.log(read),
        lambda read, x, w, do: (do / read, tuple(map(jnp.zeros_like, x)), ()),
        x_sides=("values", "head"),
    )
    v, k, q, S = (jnp.asarray(rng.uniform(0.2, 1, size=(1, 5, 1, 1, size))) for size in (3, 2, 2, 2))
    log_a, S = -v[..., :1], jnp.broadcast_to(S[:, 0, ..., None], (1, 1, 1, 2, 3))

    def op(impl):
        def run(v, log_a, k, q, S):
            scan = kernels.chunked_scan.gated_chunked_scan
            return scan(gates, (v, log_a), (), k, q, 9 + jnp.arange(5)[None], S, impl=impl, interpret=True)

        return run

    close(pulled(op("tpu"), v, log_a, k, q, S), pulled(op("xla"), v, log_a, k, q, S), 1e-8, 1e-10)
