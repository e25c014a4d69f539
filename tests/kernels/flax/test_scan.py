"""The scans against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def scan_loop(a, u, pos, h):
    pos = np.broadcast_to(pos, u.shape[:2])
    a = np.broadcast_to(a, u.shape)
    out = []
    for t in range(u.shape[1]):
        fresh = (pos[:, t] == 0).reshape(-1, *[1] * (u.ndim - 2))
        h = a[:, t] * np.where(fresh, 0, h) + u[:, t]
        out.append(h)
    return np.stack(out, 1), h


def maxscan_loop(f, i, pos, m):
    pos = np.broadcast_to(pos, i.shape[:2])
    out = []
    for t in range(i.shape[1]):
        m = np.where(pos[:, t, None] == 0, i[:, t], np.maximum(m + f[:, t], i[:, t]))
        out.append(m)
    return np.stack(out, 1), m


DECAYS = {"token": (2, 37, 3, 2), "weight": (3, 2), "head": (2, 37, 3, 1), "step": (1, 37, 1, 1)}


@pytest.mark.parametrize("shape", DECAYS.values(), ids=DECAYS)
def test_the_scan_is_the_loop(kernels, agree, rng, mixed, shape):
    a = np.exp(-np.exp(rng.normal(size=shape, scale=3)))  # from no decay at all to nothing left
    u, h = rng.normal(size=(2, 37, 3, 2)), rng.normal(size=(2, 3, 2))
    op, at = kernels.scan.scan, jnp.asarray(mixed)
    agree(lambda a, u, h: op(a, u, at, h), lambda a, u, h: scan_loop(a, u, mixed, h), (a, u, h))


def test_the_maxscan_is_the_loop(kernels, agree, rng, pos):
    f, i, m = -np.abs(rng.normal(size=(2, 37, 3))), rng.normal(size=(2, 37, 3)), rng.normal(size=(2, 3))
    op, at = kernels.scan.maxscan, jnp.asarray(pos)
    agree(lambda f, i, m: op(f, i, at, m), lambda f, i, m: maxscan_loop(f, i, pos, m), (f, i, m))


@pytest.mark.parametrize("name", ["scan", "maxscan"])
def test_the_tree_is_the_loop(kernels, compiled, monkeypatch, rng, pos, name):
    """What runs on an accelerator, forward and backward, gives what runs on a CPU."""
    op = getattr(kernels.scan, name)
    arrays = (rng.uniform(-1, 0.9, size=(2, 37, 3)), rng.normal(size=(2, 37, 3)), rng.normal(size=(2, 3)))

    def results(*arrays):
        values, pull = jax.vjp(lambda a, u, h: op(a, u, jnp.asarray(pos), h), *arrays)
        return values, pull(jax.tree.map(jnp.cos, values))

    loop = compiled(results)(*arrays)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, default, cpu: default(*args))
    tree = compiled(lambda *x: results(*x))(*arrays)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12), loop, tree)


@pytest.mark.parametrize("name", ["scan", "maxscan"])
def test_pieces_are_the_whole(kernels, pieces, rng, mixed, name):
    op = getattr(kernels.scan, name)
    a, u, h = rng.uniform(-1, 0.9, size=(2, 37, 3)), rng.normal(size=(2, 37, 3)), rng.normal(size=(2, 3))
    whole = {"scan": scan_loop, "maxscan": maxscan_loop}[name](a, u, mixed, h)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10), pieces(op, (a, u), mixed, h), whole)


def test_without_a_state_nothing_comes_before(kernels, rng):
    u, pos = jnp.asarray(rng.normal(size=(2, 5, 3))), jnp.arange(4, 9) + jnp.zeros((2, 1), int)
    h, state = kernels.scan.scan(0.5, u, pos)
    assert state is None
    np.testing.assert_allclose(h, scan_loop(0.5, u, pos, np.zeros((2, 3)))[0])
    f = jnp.zeros_like(u)
    np.testing.assert_array_equal(kernels.scan.maxscan(f, u, pos)[0], np.maximum.accumulate(u, 1))


def test_a_complex_decay_turns_the_state(kernels, compiled, rng):
    a = (0.9 * np.exp(1j * rng.normal(size=3))).astype(np.complex128)
    u = rng.normal(size=(2, 9, 3))
    pos = np.stack([np.arange(9), np.arange(9) % 4])
    h = compiled(kernels.scan.scan)(a, u, pos)[0]
    np.testing.assert_allclose(h, scan_loop(a, u, pos, np.zeros((2, 3)))[0], rtol=1e-12)

    def loss(angle, u, scan):
        return jnp.sum(jnp.cos(scan(0.9 * jnp.exp(1j * angle), u).real))

    angle, step = jnp.asarray(rng.normal(size=3)), 1e-6
    found = compiled(
        jax.grad(lambda angle: loss(angle, u, lambda a, u: kernels.scan.scan(a, jnp.asarray(u), jnp.asarray(pos))[0]))
    )(angle)
    for n in range(3):
        moved = [np.array(angle), np.array(angle)]
        moved[0][n] += step
        moved[1][n] -= step
        up, down = (loss(x, u, lambda a, u: scan_loop(a, u, pos, np.zeros((2, 3)))[0]) for x in moved)
        np.testing.assert_allclose(found[n], (up - down) / (2 * step), rtol=1e-6)


def test_half_precision_is_summed_in_single(kernels, compiled):
    a, u = jnp.asarray(np.full((1, 200, 1), 0.999), jnp.bfloat16), jnp.ones((1, 200, 1), jnp.bfloat16)
    h, state = compiled(kernels.scan.scan)(jnp.float32(0.999), u, jnp.arange(200), jnp.zeros((1, 1), jnp.float32))
    assert (h.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(state[0, 0], (1 - 0.999**200) / 0.001, rtol=1e-5)
    gradient = compiled(jax.grad(lambda a: kernels.scan.scan(a, u, jnp.arange(200))[0].sum().astype(jnp.float32)))(a)
    assert gradient.dtype == jnp.bfloat16


def test_one_token_needs_no_loop(kernels):
    x = jnp.zeros((2, 1, 3))
    for op in (kernels.scan.scan, kernels.scan.maxscan):
        compiled = jax.jit(op).lower(x, x, jnp.ones((2, 1), int), x[:, 0]).compile()
        assert " while(" not in compiled.as_text()
