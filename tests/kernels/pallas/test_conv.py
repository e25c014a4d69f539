"""The convolutions of a TPU and a GPU, interpreted, against the array code."""

import jax
import jax.numpy as jnp
import pytest

from archc.diagnostics import Source
from archc.elaborate import elaborate, load
from archc.fuse.convs import fused_convs
from tests.fuse.conftest import mixer_text
from tests.kernels.pallas.conftest import close, positions
from tests.kernels.pallas.generated import activation_of


def gate(total, x, w):
    """A token, two weights and a number."""
    return jnp.tanh(w[0] * total) * x[0] + w[1] * w[2] * x[0] ** 2


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


BEHIND = {"none": (None, 0, 0, ()), "silu": (silu, 0, 0, ()), "gate": (gate, 1, 2, (0.7,)), "log": (log, 1, 0, ())}
"""With how many tokens and weights, and which numbers."""


@pytest.mark.parametrize("impl", ["tpu", "gpu"])
@pytest.mark.parametrize(("time", "taps", "behind"), [(2, 3, "silu"), (37, 2, "none"), (37, 3, "gate"), (8, 1, "log")])
def test_the_kernel_is_the_array_code(kernels, small_blocks, pulled, rng, time, taps, behind, impl):
    function, tokens, weights, numbers = BEHIND[behind]
    activation = function and kernels.conv.Activation(function, derived(function))
    shapes = [(2, time, 5), (taps, 5), (2, taps - 1, 5), (5,), *[(2, time, 5)] * tokens, *[(5,)] * weights]
    arrays = [jnp.asarray(rng.normal(size=s)) for s in shapes]
    pos = jnp.asarray(positions(2, time))

    def op(impl):
        def run(x, w, state, bias, *more):
            handed = {"tokens": more[:tokens], "weights": more[tokens:], "numbers": numbers}
            return kernels.conv.causal_conv(
                x, w, pos, state, bias=bias, activation=activation, **handed, impl=impl, interpret=True
            )

        return run

    close(pulled(op(impl), *arrays), pulled(op("xla"), *arrays), 1e-10, 1e-12)


EQUATIONS = (
    "gelu_tanh(c + b[width]) + s[width] * relu(c) ^ 2", "sigmoid(c) * g - softplus(c * s[width])",
    "silu(g) * gelu(tanh(c) + b[width])", "where(c > 0, c, g) / (1 + c ^ 2)",
)  # fmt: skip


@pytest.mark.parametrize("equation", EQUATIONS)
def test_generated_equations_run_in_the_kernels(kernels, small_blocks, pulled, rng, equation):
    """Their derivatives, too, which the array code leaves to JAX; Triton has no error function through Pallas."""
    lines = [*(["g = x @ V[width]"] if "g" in equation.replace("gelu", "") else []), "c = conv(x, w[taps = 3 width])"]
    text = mixer_text("\n".join([*lines, f"return ({equation}) @ W[width -> width']"]))
    (found,) = fused_convs(elaborate(load(Source("spec.arch", text), None)).graph).values()
    tokens, weights = len(found.inputs), len(found.weights)
    shapes = [(2, 11, 5), (3, 5), (2, 2, 5), (5,), *[(2, 11, 5)] * tokens, *[(5,)] * weights]
    arrays = [jnp.asarray(rng.normal(size=s)) for s in shapes]
    activation, pos = activation_of(kernels, found), jnp.asarray(positions(2, 11))

    def op(impl):
        def run(x, w, state, bias, *more):
            handed = {"tokens": more[:tokens], "weights": more[tokens:], "impl": impl, "interpret": True}
            return kernels.conv.causal_conv(x, w, pos, state, bias=bias, activation=activation, **handed)

        return run

    wanted = pulled(op("xla"), *arrays)
    for impl in ("tpu", "gpu"):
        close(pulled(op(impl), *arrays), wanted, 1e-10, 1e-12)


@pytest.mark.parametrize("impl", ["tpu", "gpu"])
def test_whole_documents_in_several_axes(kernels, small_blocks, pulled, rng, impl):
    x, w, state = (jnp.asarray(rng.normal(size=s)) for s in [(2, 18, 3, 50), (3, 3, 50), (2, 2, 3, 50)])

    def op(impl):
        return lambda x, w: kernels.conv.causal_conv(x, w, jnp.arange(18), state, impl=impl, interpret=True)

    close(pulled(op(impl), x, w), pulled(op("xla"), x, w), 1e-10, 1e-12)
