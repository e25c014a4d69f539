"""The convolutions of a TPU and a GPU, interpreted, against the array code."""

import jax
import jax.numpy as jnp
import pytest

from tests.kernels.pallas.conftest import close, positions


def gate(total, x, w):
    """A token, two weights and perhaps a number."""
    shift = w[1] * w[2] if len(w) > 2 else w[1]
    return jnp.tanh(w[0] * total) * x[0] + shift * x[0] ** 2


def derived(function):
    """Its derivatives by JAX itself, none of them summed."""

    def grad(total, x, w, do):
        arrays, numbers = w[:2], w[2:]
        full = tuple(jnp.broadcast_to(z, total.shape) for z in arrays)
        _, pull = jax.vjp(lambda total, x, w: function(total, x, (*w, *numbers)), total, x, full)
        return pull(do)

    return grad


def silu(total, x, w):
    return jax.nn.silu(total)


def log(total, x, w):
    """Not a number where there is no token."""
    return jnp.log(total**2) * x[0] - jnp.log(x[0] ** 2)


BEHIND = {"none": (None, 0, 0), "silu": (silu, 0, 0), "gate": (gate, 1, 2), "numbers": (gate, 1, 2), "log": (log, 1, 0)}


@pytest.mark.parametrize("impl", ["tpu", "gpu"])
@pytest.mark.parametrize(
    ("time", "taps", "behind"),
    [
        (37, 3, "silu"),
        (2, 3, "silu"),
        (8, 1, "gate"),
        (37, 2, "none"),
        (37, 3, "gate"),
        (21, 3, "log"),
        (9, 3, "numbers"),
    ],
)
def test_the_kernel_is_the_array_code(kernels, small_blocks, pulled, rng, time, taps, behind, impl):
    function, tokens, weights = BEHIND[behind]
    activation = function and kernels.conv.Activation(function, derived(function))
    shapes = [(2, time, 5), (taps, 5), (2, taps - 1, 5), (5,), *[(2, time, 5)] * tokens, *[(5,)] * weights]
    arrays = [jnp.asarray(rng.normal(size=s)) for s in shapes]
    pos, numbers = jnp.asarray(positions(2, time)), (0.7,) if behind == "numbers" else ()

    def op(impl):
        def run(x, w, state, bias, *more):
            handed = {"tokens": more[:tokens], "weights": more[tokens:], "numbers": numbers}
            return kernels.conv.causal_conv(
                x, w, pos, state, bias=bias, activation=activation, **handed, impl=impl, interpret=True
            )

        return run

    close(pulled(op(impl), *arrays), pulled(op("xla"), *arrays), 1e-10, 1e-12)


@pytest.mark.parametrize("impl", ["tpu", "gpu"])
def test_whole_documents_in_several_axes(kernels, small_blocks, pulled, rng, impl):
    x, w, state = (jnp.asarray(rng.normal(size=s)) for s in [(2, 18, 3, 50), (3, 3, 50), (2, 2, 3, 50)])

    def op(impl):
        return lambda x, w: kernels.conv.causal_conv(x, w, jnp.arange(18), state, impl=impl, interpret=True)

    close(pulled(op(impl), x, w), pulled(op("xla"), x, w), 1e-10, 1e-12)
