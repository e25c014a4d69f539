"""The chunked scans of a TPU and a GPU, interpreted, against the array code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.pallas.conftest import close, positions, quick

NAMES = {"head": "chunked_scan", "key": "chunked_key_scan"}


@pytest.fixture(params=NAMES)
def scan(request, kernels, small_chunks):
    """One of the two functions."""
    return getattr(kernels.chunked_scan, NAMES[request.param])


def per_key(scan):
    return scan.__name__ == NAMES["key"]


def drawn(rng, scan, time, groups, heads, shared):
    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape))

    keys, decays = 1 if shared else heads, (3,) if per_key(scan) else ()
    log_a = -jnp.exp(2 * normal(2, time, groups, heads, *decays))  # from hardly any decay to nothing left
    k, q = normal(2, time, groups, keys, 3), normal(2, time, groups, keys, 3)
    return log_a, k, normal(2, time, groups, heads, 5), q, normal(2, groups, heads, 3, 5)


@pytest.mark.parametrize("impl", ["tpu", "gpu"])
@pytest.mark.parametrize(("time", "shared", "before"), [(37, True, False), (16, False, True)])
def test_the_kernel_is_the_array_code(scan, pulled, rng, impl, time, shared, before):
    arrays, pos = drawn(rng, scan, time, 2, 2, shared), jnp.asarray(positions(2, time))

    def op(impl):
        return lambda log_a, k, v, q, S: scan(log_a, k, v, q, pos, S, before=before, impl=impl, interpret=True)

    close(pulled(op(impl), *arrays), pulled(op("xla"), *arrays), 1e-8, 1e-10)


@pytest.mark.parametrize(("impl", "time"), [("tpu", 1), ("gpu", 20)])
def test_whole_documents_with_one_decay_for_all_tokens(scan, pulled, rng, impl, time):
    _, k, v, q, S = drawn(rng, scan, time, 1, 2, False)
    log_a = -jnp.exp(jnp.asarray(rng.normal(size=(2, 3) if per_key(scan) else 2)))

    def op(impl):
        return lambda log_a, k, v, q: scan(log_a, k, v, q, jnp.arange(time), S, impl=impl, interpret=True)

    close(pulled(op(impl), log_a, k, v, q), pulled(op("xla"), log_a, k, v, q), 1e-8, 1e-10)


def test_values_in_single_precision_do_not_make_products_exact_ones(scan, pulled, rng):
    """Operands are as exact as the least exact input; y and the gradient of v are not rounded to that."""
    log_a, k, v, q, S = (x.astype(jnp.float32) for x in drawn(rng, scan, 20, 1, 2, True))
    k, q = k.astype(jnp.bfloat16), q.astype(jnp.bfloat16)

    def op(impl):
        return lambda v, k, q: scan(log_a, k, v, q, jnp.arange(20), S, impl=impl, interpret=True)

    with jax.enable_x64(False):
        (y, last), (dv, dk, _) = pulled(op("gpu"), v, k, q)
    assert (y.dtype, last.dtype, dv.dtype, dk.dtype) == (jnp.float32, jnp.float32, jnp.float32, jnp.bfloat16)
    (wanted, _), (wanted_dv, _, _) = pulled(op("xla"), *(x.astype(float) for x in (v, k, q)))
    for found, want in ((y, wanted), (dv, wanted_dv)):
        assert 1e-5 < np.abs(found - want).max() / np.abs(want).max() < 2e-2


def test_no_decay_is_too_strong_in_single_precision(kernels, rng):
    """Decays of zero and one side by side, in a chunk as shipped: the loop over tokens knows the values."""
    k, q, v = (rng.normal(size=(1, 40, 1, 1, 4)).astype(np.float32) for _ in range(3))
    log_a = np.where(rng.uniform(size=(1, 40, 1, 1, 4)) < 0.3, -np.inf, -1e-3).astype(np.float32)
    S, wanted = np.zeros((4, 4)), []
    for t in range(40):
        S = np.exp(log_a[0, t, 0, 0, :, None].astype(float)) * S + np.outer(k[0, t], v[0, t])
        wanted.append(q[0, t, 0, 0] @ S)

    @quick
    def run(*arrays):
        def op(*x):
            return kernels.chunked_scan.chunked_key_scan(*x, jnp.arange(40), impl="tpu", interpret=True)[0]

        y, pull = jax.vjp(op, *arrays)
        return y, pull(y)

    with jax.enable_x64(False):
        y, gradients = run(log_a, k, v, q)
    np.testing.assert_allclose(y[0, :, 0, 0], wanted, rtol=1e-5, atol=1e-5)
    assert all(np.isfinite(g).all() for g in gradients)
