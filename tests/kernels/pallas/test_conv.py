"""The convolutions of a TPU and a GPU, interpreted, against the array code."""

import jax.numpy as jnp
import pytest

from tests.kernels.pallas.conftest import close, positions


@pytest.mark.parametrize("impl", ["tpu", "gpu"])
@pytest.mark.parametrize(("time", "taps", "silu"), [(37, 3, True), (2, 3, True), (8, 1, True), (37, 2, False)])
def test_the_kernel_is_the_array_code(kernels, small_blocks, pulled, rng, time, taps, silu, impl):
    shapes = [(2, time, 5), (taps, 5), (2, taps - 1, 5), (5,)]
    x, w, state, bias = (jnp.asarray(rng.normal(size=s)) for s in shapes)
    pos = jnp.asarray(positions(2, time))

    def op(impl):
        return lambda x, w, state, bias: kernels.conv.causal_conv(
            x, w, pos, state, bias=bias, silu=silu, impl=impl, interpret=True
        )

    close(pulled(op(impl), x, w, state, bias), pulled(op("xla"), x, w, state, bias), 1e-10, 1e-12)


@pytest.mark.parametrize("impl", ["tpu", "gpu"])
def test_whole_documents_in_several_axes(kernels, small_blocks, pulled, rng, impl):
    x, w, state = (jnp.asarray(rng.normal(size=s)) for s in [(2, 18, 3, 50), (3, 3, 50), (2, 2, 3, 50)])

    def op(impl):
        return lambda x, w: kernels.conv.causal_conv(x, w, jnp.arange(18), state, impl=impl, interpret=True)

    close(pulled(op(impl), x, w), pulled(op("xla"), x, w), 1e-10, 1e-12)
