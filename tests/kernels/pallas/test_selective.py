"""The selective scans of a TPU and a GPU, interpreted, against the array code and loops in NumPy."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from tests.kernels.pallas.conftest import close, positions
from tests.kernels.pallas.equations import mamba, mamba_grad, mamba_out, mamba_out_grad, mamba_plain

MAMBA = mamba, mamba_grad, mamba_out, mamba_out_grad
pytestmark = pytest.mark.usefixtures("small_blocks")


def drawn(rng, batch, time, channels, states):
    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape))

    x, w = tuple(normal(batch, time, channels) for _ in range(3)), (normal(channels), normal(channels))
    A = -jnp.exp(normal(channels, states))
    return x, w, A, normal(batch, time, states), normal(batch, time, states), normal(batch, channels, states)


@pytest.mark.parametrize("impl", ["tpu", "gpu"])
@pytest.mark.parametrize(("time", "channels"), [(37, 21), (8, 150)], ids=["odd", "whole block"])
def test_the_kernel_is_the_array_code(kernels, pulled, rng, time, channels, impl):
    gates = kernels.gated.Gates(*MAMBA)
    arrays = drawn(rng, 2, time, channels, 3)
    pos = positions(2, time)

    def op(impl):
        def run(x, w, A, B, C, h):
            at = jnp.asarray(pos)
            return kernels.gated.gated_selective_scan(gates, x, w, A, B, C, at, h, impl=impl, interpret=True)

        return run

    wanted = pulled(op("xla"), *arrays)
    x, w, *rest = jax.tree.map(np.asarray, arrays)
    close(wanted[0], mamba_plain(*x, *w, *rest[:3], pos, rest[3]), 1e-9, 1e-12)
    close(pulled(op(impl), *arrays), wanted, 1e-9, 1e-11)


class Grouped(NamedTuple):
    """Axes of channels, those of them that keys and queries have, states, and the machines whose kernels differ."""

    axes: tuple[int, ...]
    keys: tuple[int, ...]
    queries: tuple[int, ...]
    states: int
    machines: tuple[Literal["tpu", "gpu"], ...]


GROUPS = {
    "of three channels, shared in two places": Grouped((2, 2, 2, 3), (1, 2, 1), (1, 2, 2), 3, ("tpu", "gpu")),
    "across tiles": Grouped((4, 40), (1,), (4,), 3, ("tpu", "gpu")),
    "of whole tiles": Grouped((2, 2, 128), (2, 1), (1, 2), 3, ("tpu",)),
    "that fill tiles, of which two share": Grouped((2, 2, 2, 64), (2, 1, 2), (2, 2, 2), 64, ("tpu",)),
}


@pytest.mark.parametrize("name", GROUPS)
def test_groups_of_channels_have_keys_and_queries_of_their_own(kernels, pulled, rng, monkeypatch, name):
    monkeypatch.setattr(kernels.selective_tpu, "CHANNELS", 256)
    gates, (axes, keys, queries, states, machines) = kernels.gated.Gates(*MAMBA), GROUPS[name]
    x, w, A, *_ = drawn(rng, 2, 11, int(np.prod(axes)), states)
    x, w, A = tuple(z.reshape(2, 11, *axes) for z in x), tuple(z.reshape(axes) for z in w), A.reshape(*axes, states)
    rows = (jnp.asarray(rng.normal(size=(2, 11, *groups, states))) for groups in (keys, queries))
    arrays, at = (x, w, A, *rows, jnp.asarray(rng.normal(size=(2, *axes, states)))), jnp.asarray(positions(2, 11))

    def op(impl):
        def run(x, w, A, B, C, h):
            return kernels.gated.gated_selective_scan(gates, x, w, A, B, C, at, h, impl=impl, interpret=True)

        return run

    wanted = pulled(op("xla"), *arrays)
    for impl in machines:
        assert all(kernels.selective_scan.fused(impl, x[0].shape, z) is not None for z in arrays[3:5])
        close(pulled(op(impl), *arrays), wanted, 1e-9, 1e-11)


def test_gradients_are_added_up_over_groups_in_single_precision(kernels, rng):
    """Not in half, though a TPU multiplies that."""
    keys = kernels.selective_keys_tpu.OfGroups(8, 16, 16, kernels.selective_keys_tpu.Shared(1, 1))
    given = rng.normal(size=(2, 16, 128)).astype(np.float32)  # [tokens, N, channels]

    def kernel(given, out, held):
        add = keys.adder(held, 128)
        for k in range(2):
            add(0, k, given[k])
        keys.writer(out, held)(0)

    held = keys.held(None, kernels.selective_keys_tpu.Cut(1, 2, 128, None), jnp.float32)
    out = jax.ShapeDtypeStruct((1, 2, 128), jnp.float32)
    found = pl.pallas_call(kernel, out_shape=out, scratch_shapes=[held], interpret=True)(given)
    wanted = given.astype(float).reshape(2, 16, 8, 16).sum(-1).swapaxes(1, 2).reshape(1, 2, 128)
    close(found, wanted, 1e-6, 1e-6)


@pytest.mark.parametrize("impl", ["tpu", "gpu"])
def test_whole_documents_without_gates(kernels, pulled, rng, impl):
    """pos [T]: the state is not read, and nothing stands around the scan."""
    (x, dt, _), _, A, B, C, h = drawn(rng, 2, 11, 5, 2)

    def op(impl):
        def run(dt, A, x, B, C):
            at = jnp.arange(11)
            return kernels.selective_scan.selective_scan(dt, A, x, B, C, at, h, impl=impl, interpret=True)

        return run

    arrays = (jnp.exp(dt), A, x, B, C)
    close(pulled(op(impl), *arrays), pulled(op("xla"), *arrays), 1e-9, 1e-11)
