"""The fused scans, interpreted, against today's array code and against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.pallas.conftest import close, positions, quick
from tests.kernels.pallas.equations import (
    DIAGONAL,
    mamba,
    mamba_grad,
    mamba_out,
    mamba_out_grad,
    rg_lru,
    rg_lru_grad,
)

pytestmark = pytest.mark.usefixtures("small_blocks")


def drawn(rng, equations, batch, time, channels, dtype=float):
    x = tuple(jnp.asarray(rng.normal(size=(batch, time, channels)), dtype) for _ in range(equations.inputs))
    w = tuple(jnp.asarray(rng.uniform(-2, -1e-3, size=channels), dtype) for _ in range(equations.weights))
    return x, w, jnp.asarray(rng.normal(size=(batch, channels)))


def looped(equations, x, w, pos, h):
    a, u = equations.plain(*map(np.asarray, (*x, *w)), (np.broadcast_to(pos, x[0].shape[:2]) == 0)[..., None])
    out = []
    for t in range(a.shape[1]):
        before = np.where(np.broadcast_to(pos, a.shape[:2])[:, t, None] == 0, 0, h)
        h = a[:, t] * before + u[:, t]
        out.append(before if equations.before else h)
    return equations.plain_out(np.stack(out, 1), *map(np.asarray, (*x, *w))), h


@pytest.mark.parametrize("name", DIAGONAL)
@pytest.mark.parametrize("impl", ["tpu", "gpu"])
def test_a_kernel_is_the_array_code(kernels, pulled, rng, name, impl):
    """Values, states, and every gradient, in double precision: T and C are no multiples of a block."""
    equations = DIAGONAL[name]
    gates = equations.of(kernels.gated.Gates)
    x, w, h = drawn(rng, equations, 2, 37, 21)
    pos = jnp.asarray(positions(2, 37))

    def op(impl):
        return lambda x, w, h: kernels.gated.gated_scan(gates, x, w, pos, h, impl=impl, interpret=True)

    wanted = pulled(op("xla"), x, w, h)
    close(wanted[0], looped(equations, x, w, pos, h), 1e-10, 1e-12)
    close(pulled(op(impl), x, w, h), wanted, 1e-9, 1e-12)


@pytest.mark.parametrize("impl", ["tpu", "gpu"])
@pytest.mark.parametrize(("time", "channels"), [(1, 3), (32, 200)], ids=["one token", "whole blocks"])
def test_any_size(kernels, pulled, rng, impl, time, channels):
    equations = DIAGONAL["gated_hgrn before" if time > 1 else "gated_hgrn"]
    gates = equations.of(kernels.gated.Gates)
    x, w, h = drawn(rng, equations, 2, time, channels)
    pos = jnp.asarray(positions(2, time))

    def op(impl):
        return lambda x, w, h: kernels.gated.gated_scan(gates, x, w, pos, h, impl=impl, interpret=True)

    close(pulled(op(impl), x, w, h), pulled(op("xla"), x, w, h), 1e-9, 1e-12)


@pytest.mark.parametrize("impl", ["tpu", "gpu"])
def test_whole_documents_read_no_state(kernels, pulled, rng, impl):
    """pos [T]; several feature axes, inputs and weights that broadcast; with a state and without."""
    equations = DIAGONAL["hgrn"]
    gates = equations.of(kernels.gated.Gates)
    f, c = (jnp.asarray(rng.normal(size=shape)) for shape in [(2, 18, 3, 1), (2, 18, 3, 2)])
    low, h = jnp.asarray(rng.uniform(size=2)), jnp.asarray(rng.normal(size=(2, 3, 2)))

    def op(impl, state):
        return lambda f, c, low: kernels.gated.gated_scan(
            gates, (f, c), (low,), jnp.arange(18), state, impl=impl, interpret=True
        )

    wanted = pulled(op("xla", h), f, c, low)
    close(pulled(op(impl, h), f, c, low), wanted, 1e-9, 1e-12)
    y, state = quick(op(impl, None))(f, c, low)
    assert state is None
    np.testing.assert_allclose(y, wanted[0][0], rtol=1e-9)


def test_channels_as_one_axis_and_as_several_are_the_same_channels(kernels, pulled, rng):
    equations = DIAGONAL["gated_hgrn"]
    gates = equations.of(kernels.gated.Gates)
    x, w, h = drawn(rng, equations, 2, 5, 6)
    pos = jnp.asarray(positions(2, 5))

    def op(*axes):
        def run(x, w, h):
            x = (x[0], *(z.reshape(2, 5, *axes) for z in x[1:]))
            y, last = kernels.gated.gated_scan(gates, x, [z.reshape(axes) for z in w], pos, h.reshape(2, *axes))
            assert (y.shape, last.shape) == ((2, 5, 6), (2, *axes))
            return y, last.reshape(h.shape)

        return run

    close(pulled(op(2, 3), x, w, h), pulled(op(6), x, w, h), 1e-12, 1e-12)


@pytest.mark.parametrize("impl", ["tpu", "gpu"])
def test_half_precision_is_computed_in_single(kernels, pulled, rng, impl):
    """Rounded once, at the end: the same numbers as in double precision, within half an ulp of the result's dtype."""
    equations = DIAGONAL["hgrn"]
    gates = equations.of(kernels.gated.Gates)
    x, w, h = drawn(rng, equations, 1, 37, 5, jnp.bfloat16)
    pos = jnp.asarray(positions(1, 37), jnp.int32)

    def op(impl):
        return lambda x, w, h: kernels.gated.gated_scan(gates, x, w, pos, h, impl=impl, interpret=True)

    with jax.enable_x64(False):
        (y, last), (dx, dw, dh) = pulled(op(impl), x, w, h.astype(jnp.float32))
    assert (y.dtype, last.dtype, dx[0].dtype, dw[0].dtype, dh.dtype) == (
        jnp.bfloat16,
        jnp.float32,
        jnp.bfloat16,
        jnp.bfloat16,
        jnp.float32,
    )
    exact = pulled(op("xla"), *jax.tree.map(lambda z: z.astype(jnp.float64), (x, w, h)))
    close(last, exact[0][1], 2e-6, 1e-6)
    close(y.astype(jnp.float64), exact[0][0], 4e-3, 1e-6)
    close(dx[0].astype(jnp.float64), exact[1][0][0], 0.02, 0.02)


def test_gates_that_triton_has_no_operation_for_run_as_array_code(kernels, pulled, rng):
    """A product of erf, inside of a function that JAX calls: the kernel of a GPU would not be lowered."""
    curve = jax.jit(jax.lax.erf)
    gates = kernels.gated.Gates(lambda x, w, first: (0.5 + 0.1 * curve(x[0]), x[0]), None)
    (x, *_), _, h = drawn(rng, DIAGONAL["hgrn"], 2, 5, 3)
    pos = jnp.asarray(positions(2, 5))

    def op(impl):
        return lambda x, h: kernels.gated.gated_scan(gates, (x,), (), pos, h, impl=impl)

    close(pulled(op("gpu"), x, h), pulled(op("xla"), x, h), 1e-12, 1e-12)


def test_a_number_is_a_weight_that_has_no_gradient(kernels, pulled, rng):
    """Of the gates in front of a state on a TPU, and of those behind a read-out on a GPU."""
    x, _, h = drawn(rng, DIAGONAL["rg_lru"], 2, 11, 5)
    pos, rate, skip = jnp.asarray(positions(2, 11)), -0.7, 0.3
    whole, of_x = (kernels.gated.Gates(rg_lru, grad) for grad in (rg_lru_grad, without_last(rg_lru_grad)))

    def scan(gates, w, **given):
        return lambda x, h: kernels.gated.gated_scan(gates, x, w, pos, h, interpret=True, **given)

    wanted = pulled(scan(whole, (jnp.full(5, rate),), impl="xla"), x, h)
    close(pulled(scan(of_x, (), numbers=(rate,), impl="tpu"), x, h), wanted, 1e-9, 1e-12)

    whole = kernels.gated.Gates(mamba, mamba_grad, mamba_out, mamba_out_grad)
    of_x = kernels.gated.Gates(mamba, without_last(mamba_grad), mamba_out, without_last(mamba_out_grad))
    bias, A, *BC, h = (jnp.asarray(rng.normal(size=s)) for s in (5, (5, 2), (2, 11, 2), (2, 11, 2), (2, 5, 2)))

    def selective(gates, *more, **given):
        run = kernels.gated.gated_selective_scan
        return lambda x, w: run(gates, x, (w, *more), -jnp.exp(A), *BC, pos, h, interpret=True, **given)

    wanted = pulled(selective(whole, jnp.full(5, skip), impl="xla"), x, bias)
    close(pulled(selective(of_x, numbers=(skip,), impl="gpu"), x, bias), wanted, 1e-9, 1e-11)


def without_last(grad):
    """A function of gates without the derivative by the last weight."""

    def some(*given):
        *before, dw = grad(*given)
        return *before, dw[:-1]

    return some


def test_gates_may_have_negative_whole_powers(kernels, pulled, rng):
    """What XLA is told of their cost, too, which JAX has no number for."""

    def powers(x, w, first):
        return jax.nn.sigmoid(x[0]), x[1] ** -2

    def powers_grad(x, w, first, da, du):
        s = jax.nn.sigmoid(x[0])
        return (da * s * (1 - s), -2 * du * x[1] ** -3), ()

    gates = kernels.gated.Gates(powers, powers_grad)
    x, h, pos = jnp.asarray(rng.uniform(1, 2, size=(2, 1, 5, 3))), jnp.ones((1, 3)), jnp.arange(5)

    def op(impl):
        return lambda x, h: kernels.gated.gated_scan(gates, tuple(x), (), pos, h, impl=impl, interpret=True)

    close(pulled(op("gpu"), x, h), pulled(op("xla"), x, h), 1e-9, 1e-12)
