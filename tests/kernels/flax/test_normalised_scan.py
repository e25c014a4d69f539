"""Scans of outer products with a normaliser, against a loop over tokens in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.flax.test_chunked_scan import matrix_loop


def loop(log_a, k, v, q, S, z, pos):
    """The normaliser is what is read of values that are one."""
    y, S = matrix_loop(log_a, k, v, q, S, pos)
    norm, z = matrix_loop(log_a, k, np.ones((*v.shape[:-1], 1)), q, z[..., None], pos)
    return y, norm[..., 0], S, z[..., 0]


@pytest.fixture
def arrays(rng):
    """log_a, k, v, q, S, z; keys and queries shared by the heads."""
    shapes = [(2, 37, 2, 1, 5), (2, 37, 2, 3, 4), (2, 37, 2, 1, 5), (2, 2, 3, 5, 4), (2, 2, 3, 5)]
    return (-rng.exponential(size=(2, 37, 2, 3)), *(rng.uniform(size=shape) for shape in shapes))


def scanned(kernels, log_a, k, v, q, S, z, pos):
    (y, norm), states = kernels.normalised_scan.normalised_chunked_scan(log_a, k, v, q, pos, (S, z))
    return y, norm, *states


def test_both_read_outs_are_the_loop(agree, kernels, arrays, pos):
    seen = np.broadcast_to(pos >= 0, (2, 37))
    counts = seen[..., None, None, None], seen[..., None, None], True, True
    agree(
        lambda *x: scanned(kernels, *x, jnp.asarray(pos)),
        lambda *x: loop(*x, pos),
        arrays,
        counts,
    )


def test_whole_documents_start_from_nothing(kernels, compiled, arrays):
    run = compiled(lambda *x: kernels.normalised_scan.normalised_chunked_scan(*x, jnp.arange(37)))
    (y, norm), states = run(*arrays[:4])
    want = loop(*arrays[:4], *(np.zeros_like(x) for x in arrays[4:]), np.arange(37))
    assert states == (None, None)
    np.testing.assert_allclose(y, want[0], rtol=1e-9)
    np.testing.assert_allclose(norm, want[1], rtol=1e-9)


def test_tokens_one_by_one_are_the_whole(kernels, compiled, arrays, mixed):
    step = compiled(kernels.normalised_scan.normalised_chunked_scan)
    states, read = arrays[4:], []
    for t in range(4):
        both, states = step(*(x[:, t : t + 1] for x in arrays[:4]), mixed[:, t : t + 1], states)
        read.append(both)
    want = loop(*(x[:, :4] for x in arrays[:4]), *arrays[4:], mixed[:, :4])
    seen = mixed[:, :4] >= 0
    for found, wanted in zip(map(np.concatenate, zip(*read, strict=True), (1, 1)), want[:2], strict=True):
        np.testing.assert_allclose(found[seen], wanted[seen], rtol=1e-9)
    for found, wanted in zip(states, want[2:], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_equations_behind_the_scan_take_the_normaliser(agree, kernels, arrays, mixed):
    gates = kernels.gated.Gates(
        gates=lambda x, w, first: (-x[1], x[0] * w[0]),
        gates_grad=None,
        out=lambda y, x, w: y / (x[2] + 1e-6) + x[0] * w[0],
        normalised=True,
    )

    def run(log_a, k, v, q, S, z):
        x, w = (v, -log_a[..., None]), (jnp.full((2, 3, 1), 1.5),)
        out, states = kernels.normalised_scan.gated_normalised_scan(gates, x, w, k, q, jnp.asarray(mixed), (S, z))
        return out, *states

    def written(log_a, k, v, q, S, z):
        y, norm, S, z = loop(log_a, k, v * 1.5, q, S, z, mixed)
        return y / (norm[..., None] + 1e-6) + v * 1.5, S, z

    agree(run, written, arrays, ((mixed >= 0)[..., None, None, None], True, True))
