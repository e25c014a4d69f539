"""The selective scan against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def selective_loop(dt, A, x, B, C, h, pos):
    pos, out = np.broadcast_to(pos, x.shape[:2]), []
    for t in range(x.shape[1]):
        h = np.where((pos[:, t] == 0)[:, None, None], 0, h)
        h = np.exp(dt[:, t, :, None] * A) * h + x[:, t, :, None] * B[:, t, None]
        out.append(np.sum(C[:, t, None] * h, -1))
    return np.stack(out, 1), h


@pytest.fixture
def arrays(rng):
    dt = np.exp(rng.normal(size=(2, 37, 3), scale=2))  # from hardly any decay to nothing left
    A = -np.arange(1.0, 5) * np.ones((3, 1))
    x, B, C, h = (rng.normal(size=shape) for shape in [(2, 37, 3), (2, 37, 4), (2, 37, 4), (2, 3, 4)])
    return dt, A, x, B, C, h


@pytest.mark.parametrize("steps", [8, 64])
def test_the_selective_scan_is_the_loop(kernels, monkeypatch, agree, arrays, pos, steps):
    monkeypatch.setattr(kernels.selective_scan, "STEPS", steps)
    op, at = kernels.selective_scan.selective_scan, jnp.asarray(pos)
    agree(lambda *x: op(*x[:5], at, x[5]), lambda *x: selective_loop(*x, pos), arrays)


def grouped_loop(dt, A, x, B, C, h, pos):
    """Every channel by itself, with the row of B and C that its group reads."""
    pos, axes, y = np.broadcast_to(pos, x.shape[:2]), x.shape[2:], np.zeros_like(x)
    h = h.copy()
    for b, t, *c in np.ndindex(x.shape):
        row = tuple(min(i, n - 1) for i, n in zip(c, B.shape[2:-1], strict=False))
        column = tuple(min(i, n - 1) for i, n in zip(c, C.shape[2:-1], strict=False))
        at = (b, *c)
        before = h[at] * (pos[b, t] != 0)
        h[at] = np.exp(dt[(b, t, *c)] * A[tuple(c)]) * before + x[(b, t, *c)] * B[(b, t, *row)]
        y[(b, t, *c)] = h[at] @ C[(b, t, *column)]
    assert axes == A.shape[:-1]
    return y, h


@pytest.mark.parametrize(
    ("axes", "keys", "queries"),
    [((2, 2, 2, 3), (1, 2, 1), (2, 1, 2)), ((3, 2, 2), (1,), (3,))],
)
def test_groups_of_channels_have_keys_and_queries_of_their_own(kernels, agree, rng, mixed, axes, keys, queries):
    time = mixed.shape[1]
    dt, A = np.exp(rng.normal(size=(2, time, *axes))), -np.exp(rng.normal(size=(*axes, 4)))
    x, h = rng.normal(size=(2, time, *axes)), rng.normal(size=(2, *axes, 4))
    B, C = (rng.normal(size=(2, time, *groups, 4)) for groups in (keys, queries))
    op, at = kernels.selective_scan.selective_scan, jnp.asarray(mixed)
    agree(lambda *z: op(*z[:5], at, z[5]), lambda *z: grouped_loop(*z, mixed), (dt, A, x, B, C, h))


def test_pieces_are_the_whole(kernels, pieces, arrays, mixed):
    dt, A, x, B, C, h = arrays
    op = lambda dt, x, B, C, pos, h: kernels.selective_scan.selective_scan(dt, A, x, B, C, pos, h)  # noqa: E731
    found = pieces(op, (dt, x, B, C), mixed, h)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10), found, selective_loop(*arrays, mixed))


def test_half_precision_is_summed_in_single(kernels, compiled):
    one = jnp.ones((1, 200, 1), jnp.bfloat16)
    op = compiled(kernels.selective_scan.selective_scan)
    A = jnp.full((1, 1), -0.001, jnp.float32)
    y, state = op(one, A, one, one, one, jnp.arange(200), jnp.zeros((1, 1, 1), jnp.float32))
    assert (y.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(state[0, 0, 0], np.sum(np.exp(-0.001 * np.arange(200))), rtol=1e-5)


def test_without_a_state_nothing_comes_before(kernels, compiled, arrays, mixed):
    y, state = compiled(kernels.selective_scan.selective_scan)(*arrays[:5], mixed)
    assert state is None
    np.testing.assert_allclose(y, selective_loop(*arrays[:5], 0 * arrays[5], mixed)[0], rtol=1e-10)
