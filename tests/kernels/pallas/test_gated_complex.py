"""The fused scans of complex states, interpreted, against array code of complex numbers and against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.pallas.conftest import close, positions, quick

pytestmark = pytest.mark.usefixtures("small_blocks")


def spiral(x, w, first):
    """A decay sigmoid(r) that turns by t, times a weight; the imaginary input is a weight alone."""
    r, t, u = x
    size = jax.nn.sigmoid(r) * w[0]
    return size * jnp.cos(t), size * jnp.sin(t), jnp.where(first, 2.0, 1.0) * u, w[1]


def spiral_grad(x, w, first, da_re, da_im, du_re, du_im):
    r, t, _ = x
    s = jax.nn.sigmoid(r)
    along, across = da_re * jnp.cos(t) + da_im * jnp.sin(t), da_im * jnp.cos(t) - da_re * jnp.sin(t)
    return (along * w[0] * s * (1 - s), across * s * w[0], jnp.where(first, 2.0, 1.0) * du_re), (along * s, du_im)


def square(re, im, x, w):
    return (re * re + im) * x[2] * w[1]


def square_grad(re, im, x, w, do):
    zero = jnp.zeros_like(do)
    d = do * x[2] * w[1]
    return 2 * re * d, d, (zero, zero, do * (re * re + im) * w[1]), (zero, do * (re * re + im) * x[2])


def turned(re, im, x, w):
    return -x[1] * im, x[1] * re


def turned_grad(re, im, x, w, do_re, do_im):
    zero = jnp.zeros_like(do_re)
    return x[1] * do_im, -x[1] * do_re, (zero, do_im * re - do_re * im, zero), (zero, zero)


KINDS = {
    "state": (spiral, spiral_grad),
    "real before": (spiral, spiral_grad, square, square_grad, True, True),
    "complex": (spiral, spiral_grad, turned, turned_grad),
}


def drawn(rng, batch, time, channels, dtype=float):
    x = tuple(jnp.asarray(rng.normal(size=(batch, time, channels)), dtype) for _ in range(3))
    w = tuple(jnp.asarray(rng.uniform(size=channels), dtype) for _ in range(2))
    return x, w, jnp.asarray(rng.normal(size=(2, batch, channels)))


def scanned(kernels, name, pos, **given):
    """Results in their parts, of a state in its parts."""
    gates = kernels.gated_complex.ComplexGates(*KINDS[name])

    def op(x, w, h):
        y, last = kernels.gated_complex.gated_complex_scan(gates, x, w, pos, jax.lax.complex(*h), **given)
        return tuple(y) if isinstance(y, tuple) else (y,), last.real, last.imag

    return op


def looped(name, x, w, pos, h):
    gates, _, *read = KINDS[name]
    fresh = np.broadcast_to(pos, x[0].shape[:2])[..., None] == 0
    parts = [np.broadcast_to(part, x[0].shape) for part in gates(x, w, fresh)]
    a, u = parts[0] + 1j * parts[1], parts[2] + 1j * parts[3]
    h, out = np.asarray(h[0] + 1j * h[1]), []
    for t in range(a.shape[1]):
        before = np.where(fresh[:, t], 0, h)
        h = a[:, t] * before + u[:, t]
        out.append(before if "before" in name else h)
    states = np.stack(out, 1)
    found = read[0](states.real, states.imag, x, w) if read else (states.real, states.imag)
    return found if isinstance(found, tuple) else (found,), h.real, h.imag


@pytest.mark.parametrize("name", KINDS)
def test_a_kernel_is_the_array_code(kernels, pulled, rng, name):
    """Values, states, and every gradient, in double precision: T and C are no multiples of a block."""
    x, w, h = drawn(rng, 2, 19, 5)
    pos = jnp.asarray(positions(2, 19))
    wanted = pulled(scanned(kernels, name, pos, impl="xla"), x, w, h)
    close(wanted[0], looped(name, x, w, np.asarray(pos), h), 1e-10, 1e-12)
    for impl in ("tpu", "gpu"):
        close(pulled(scanned(kernels, name, pos, impl=impl, interpret=True), x, w, h), wanted, 1e-9, 1e-12)


@pytest.mark.parametrize("impl", ["tpu", "gpu"])
def test_whole_documents_read_no_state(kernels, rng, impl):
    x, w, h = drawn(rng, 1, 5, 3)
    op = quick(scanned(kernels, "state", jnp.arange(5), impl=impl, interpret=True))
    close(op(x, w, h + jnp.nan), looped("state", x, w, np.arange(5), 0 * h), 1e-10, 1e-12)
