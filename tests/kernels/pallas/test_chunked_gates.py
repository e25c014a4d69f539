"""Equations around scans of outer products inside of the interpreted kernels, against the array code around them."""

import jax.numpy as jnp
import pytest

from archc.fuse.scans import fused_scans
from archc.specs_index import program
from tests.kernels.pallas.conftest import close, positions
from tests.kernels.pallas.generated import gates_of
from tests.kernels.triton.interpreted.test_drawn import gated_outer

GROUPS, HEADS, KEYS, VALUES = 2, 2, 3, 5


@pytest.fixture(autouse=True)
def _small_chunks(kernels, monkeypatch):
    for machine in (kernels.chunked_tpu, kernels.chunked_gpu):
        monkeypatch.setattr(machine, "CHUNK", 16)
    monkeypatch.setattr(kernels.chunk_sizes, "SLICE", 4)
    monkeypatch.setattr(kernels.chunks_gpu, "LEAST", 4)


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
