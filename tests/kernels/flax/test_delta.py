"""The delta rule in chunks against a loop over tokens in NumPy that keeps the whole state."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest


def delta_loop(log_a, k, v, r, q, S, pos, decayed=True):
    pos, out = np.broadcast_to(pos, v.shape[:2]), []
    for t in range(v.shape[1]):
        S = np.where((pos[:, t] > 0)[:, None, None, None], S, 0)
        after = np.exp(log_a[:, t])[..., None, None] * S
        held = np.sum(r[:, t, ..., None] * (after if decayed else S), -2)
        S = after + k[:, t, ..., None] * (v[:, t] - held)[..., None, :]
        out.append(np.sum(q[:, t, ..., None] * S, -2))
    return np.stack(out, 1), S


@pytest.fixture
def arrays(rng):
    """log_a, k, v, r, q, S; keys of length one, as the rule wants them."""
    shapes = [(2, 37, 3, 4), (2, 37, 3, 5), (2, 37, 3, 4), (2, 37, 3, 4), (2, 3, 4, 5)]
    k, v, r, q, S = (rng.normal(size=shape) for shape in shapes)
    k, r = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (k, r))
    return np.maximum(-np.exp(rng.normal(size=(2, 37, 3), scale=3)), -60), k, v, 0.7 * k + 0.3 * r, q, S


@pytest.fixture
def small_chunks(kernels, monkeypatch):
    monkeypatch.setattr(kernels.delta, "chunk_length", lambda *_: 16)


@pytest.fixture
def begun(mixed):
    """The second row has a document of its own in place of padding."""
    return np.where(mixed < 0, mixed + 3, mixed) + np.where((mixed >= 0) & (np.arange(37) < 24), [[0], [3]], 0)


@pytest.mark.parametrize("decayed", [True, False])
def test_the_chunked_rule_is_the_loop(kernels, small_chunks, agree, arrays, begun, decayed):
    op = partial(kernels.delta.delta_scan, decayed=decayed)
    at = jnp.asarray(begun)
    agree(lambda *x: op(*x[:5], at, x[5]), lambda *x: delta_loop(*x, begun, decayed), arrays)


def test_pieces_are_the_whole(kernels, small_chunks, in_chunks, agree, arrays, begun):
    agree(
        lambda *x: in_chunks(kernels.delta.delta_scan, x[:5], begun, x[5]),
        lambda *x: delta_loop(*x, begun),
        arrays,
    )


def test_without_a_state_documents_start_from_nothing(kernels, small_chunks, compiled, arrays):
    y, none = compiled(lambda *x: kernels.delta.delta_scan(*x, jnp.arange(37)))(*arrays[:5])
    assert none is None
    np.testing.assert_allclose(y, delta_loop(*arrays[:5], 0 * arrays[5], np.arange(37))[0], rtol=1e-9, atol=1e-9)
