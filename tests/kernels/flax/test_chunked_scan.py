"""The chunked scans against a loop over tokens in NumPy that keeps the whole state."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

NAMES = {"head": "chunked_scan", "key": "chunked_key_scan"}


def matrix_loop(log_a, k, v, q, S, pos, before=False):
    pos, out = np.broadcast_to(pos, v.shape[:2]), []
    log_a = np.broadcast_to(log_a[..., None] if log_a.ndim < v.ndim else log_a, (*v.shape[:-1], k.shape[-1]))
    seen = pos >= 0
    for t in range(v.shape[1]):
        S = np.where((pos[:, t] > 0)[:, None, None, None, None], S, 0)
        old, S = (
            S,
            np.exp(log_a[:, t, ..., None]) * S
            + k[:, t, ..., None] * v[:, t, ..., None, :] * seen[:, t, None, None, None, None],
        )
        out.append(np.sum(q[:, t, ..., None] * (old if before else S), -2) * np.ones(v[:, t].shape))
    return np.stack(out, 1), S


@pytest.fixture
def arrays(rng):
    """log_a per head and key (some leave nothing, some everything), k, v, q, S; k and q shared by the heads."""
    log_a = -np.exp(rng.normal(size=(2, 37, 2, 3, 5), scale=3))
    shapes = [(2, 37, 2, 1, 5), (2, 37, 2, 3, 4), (2, 37, 2, 1, 5), (2, 2, 3, 5, 4)]
    return (np.maximum(log_a, -60), *(rng.normal(size=shape) for shape in shapes))


@pytest.fixture(params=NAMES)
def case(request, kernels, monkeypatch, arrays):
    """One of the two functions, its arrays; chunks of 16 tokens in spans of 4."""
    for name in ("chunk_length", "key_chunk_length"):
        monkeypatch.setattr(kernels.chunked_scan, name, lambda *_: 16)
    monkeypatch.setattr(kernels.chunked_scan, "SPAN", 4)
    log_a = arrays[0] if request.param == "key" else arrays[0][..., 0]
    return getattr(kernels.chunked_scan, NAMES[request.param]), (log_a, *arrays[1:])


@pytest.mark.parametrize("before", [False, True])
def test_the_chunked_scan_is_the_loop(agree, case, pos, before):
    op, arrays = case
    at = jnp.asarray(pos)
    counts = (np.broadcast_to(pos >= 0, (2, 37))[..., None, None, None], True)
    agree(lambda *x: op(*x[:4], at, x[4], before=before), lambda *x: matrix_loop(*x, pos, before), arrays, counts)


def test_heads_may_have_their_own_keys(agree, case, rng, mixed):
    op, (log_a, k, v, q, S) = case
    k, q = rng.normal(size=(2, 2, 37, 2, 3, 5))
    counts = (mixed >= 0)[..., None, None, None], True
    agree(
        lambda *x: op(*x[:4], jnp.asarray(mixed), x[4]), lambda *x: matrix_loop(*x, mixed), (log_a, k, v, q, S), counts
    )


@pytest.mark.parametrize("before", [False, True])
def test_pieces_are_the_whole(pieces, case, mixed, before):
    op, arrays = case
    y, S = pieces(partial(op, before=before), arrays[:4], mixed, arrays[4])
    want, last = matrix_loop(*arrays, mixed, before)
    seen = mixed >= 0
    np.testing.assert_allclose(y[seen], want[seen], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(S, last, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES.values())
def test_no_decay_is_too_strong_in_single_precision(kernels, compiled, rng, name):
    """Decays of zero and one side by side, in chunks as shipped."""
    k, q, v = (rng.normal(size=(1, 150, 1, 1, 4)).astype(np.float32) for _ in range(3))
    log_a = np.where(rng.uniform(size=(1, 150, 1, 1, 4)) < 0.3, -np.inf, -1e-3).astype(np.float32)
    log_a = log_a if name == "chunked_key_scan" else log_a[..., 0]
    op = getattr(kernels.chunked_scan, name)
    loss = lambda log_a, k, v, q: op(log_a, k, v, q, jnp.arange(150))[0]  # noqa: E731
    y, pull = compiled(lambda *x: jax.vjp(loss, *x))(log_a, k, v, q)
    want = matrix_loop(log_a, k, v, q, np.zeros((1, 1, 1, 4, 4)), np.arange(150))[0]
    np.testing.assert_allclose(y, want, rtol=2e-3, atol=2e-3)
    assert all(np.isfinite(g).all() for g in pull(y))


def test_half_precision_is_summed_in_single(kernels, compiled):
    one = jnp.ones((1, 200, 1, 1, 1), jnp.bfloat16)
    log_a = jnp.full((1,), -0.001, jnp.float32)
    op = compiled(kernels.chunked_scan.chunked_scan)
    y, S = op(log_a, one, one, one, jnp.arange(200), jnp.zeros((1, 1, 1, 1, 1), jnp.float32))
    assert (y.dtype, S.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(S.item(), np.sum(np.exp(-0.001 * np.arange(200))), rtol=1e-5)


def test_a_single_chunk_of_two_spans_has_gradients_as_shipped(kernels, rng):
    """XLA 0.10 wrote a program for it that crashed when the spans were joined by a product."""
    k, q, v, log_a = (rng.normal(size=(1, 20, 1, 1, 4)).astype(np.float32) for _ in range(4))
    run = jax.jit(jax.grad(lambda *x: kernels.chunked_scan.chunked_key_scan(*x, jnp.arange(20))[0].sum(), range(4)))
    gradients = run(-np.exp(log_a), k, v, q)
    np.testing.assert_allclose(gradients[2].sum(), matrix_gradient(-np.exp(log_a), k, q), rtol=1e-4)


def matrix_gradient(log_a, k, q):
    """The sum of the gradients of sum(y) by v: y is linear in v, so it is sum(y) of a v of ones."""
    return matrix_loop(log_a, k, np.ones_like(k), q, np.zeros((1, 1, 1, 4, 4)), np.arange(20))[0].sum()
