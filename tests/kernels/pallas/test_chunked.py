"""The chunked scan of a TPU, interpreted, against the array code."""

import jax.numpy as jnp
import pytest

from tests.kernels.pallas.conftest import close, positions


def drawn(rng, time, groups, heads, shared):
    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape))

    keys = 1 if shared else heads
    log_a = -jnp.exp(2 * normal(2, time, groups, heads))  # from hardly any decay to nothing left
    k, q = normal(2, time, groups, keys, 3), normal(2, time, groups, keys, 3)
    return log_a, k, normal(2, time, groups, heads, 5), q, normal(2, groups, heads, 3, 5)


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@pytest.mark.parametrize(("time", "shared"), [(37, True), (16, False)])
def test_the_kernel_is_the_array_code(kernels, monkeypatch, pulled, rng, time, shared, before):
    monkeypatch.setattr(kernels.chunked_tpu, "CHUNK", 16)
    arrays, pos = drawn(rng, time, 2, 2, shared), jnp.asarray(positions(2, time))

    def op(impl):
        def run(log_a, k, v, q, S):
            return kernels.chunked_scan.chunked_scan(log_a, k, v, q, pos, S, before=before, impl=impl, interpret=True)

        return run

    close(pulled(op("tpu"), *arrays), pulled(op("xla"), *arrays), 1e-8, 1e-10)


def test_whole_documents_with_one_decay_for_all_tokens(kernels, monkeypatch, pulled, rng):
    monkeypatch.setattr(kernels.chunked_tpu, "CHUNK", 16)
    _, k, v, q, S = drawn(rng, 20, 1, 2, False)
    log_a = -jnp.exp(jnp.asarray(rng.normal(size=2)))

    def op(impl):
        def run(log_a, k, v, q):
            at = jnp.arange(20)
            return kernels.chunked_scan.chunked_scan(log_a, k, v, q, at, S, impl=impl, interpret=True)

        return run

    close(pulled(op("tpu"), log_a, k, v, q), pulled(op("xla"), log_a, k, v, q), 1e-8, 1e-10)
