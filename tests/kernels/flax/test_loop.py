"""The loop with a step body that is no linear recurrence, against the same steps in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest


def body(np):
    """Two states, one of them a matrix, and a value besides."""

    def step(W, inputs, states):
        x, y = inputs
        h, S = states
        h = np.tanh(x + h @ W)
        S = 0.9 * S * np.sin(y)[:, :, None] + h[:, None, :]
        return h, S, S.sum(-1) * y

    return step


def loop_loop(W, x, y, h0, S0, h, S, pos):
    pos, out, states = np.broadcast_to(pos, x.shape[:2]), [], (h, S)
    for t in range(x.shape[1]):
        fresh = pos[:, t] == 0
        h, S = np.where(fresh[:, None], h0, states[0]), np.where(fresh[:, None, None], S0, states[1])
        out.append(body(np)(W, (x[:, t], y[:, t]), (h, S)))
        states = out[-1][:2]
    return tuple(np.stack(z, 1) for z in zip(*out, strict=True)), states


@pytest.fixture
def arrays(rng):
    """W, two inputs, the starts of the states, the states."""
    return tuple(rng.normal(size=s) for s in [(3, 3), (2, 37, 3), (2, 37, 2), (2, 3), (2, 2, 3), (2, 3), (2, 2, 3)])


def run(kernels, W, x, y, h0, S0, pos, state):
    return kernels.loop.loop(lambda i, s: body(jnp)(W, i, s), (x, y), (h0, S0), pos, state)


def test_the_loop_is_the_loop(kernels, agree, arrays, pos):
    if pos.ndim == 1:  # the oracle reads the states that do not count here
        arrays = (*arrays[:5], *arrays[3:5])
    kernel = lambda *x: run(kernels, *x[:5], jnp.asarray(pos), x[5:])  # noqa: E731
    agree(kernel, lambda *x: loop_loop(*x, pos), arrays)


def test_pieces_are_the_whole(kernels, pieces, arrays, mixed):
    W, x, y, h0, S0, h, S = arrays
    found = pieces(lambda x, y, pos, s: run(kernels, W, x, y, h0, S0, pos, s), (x, y), mixed, (h, S))
    for a, b in zip([*found[0], *found[1]], sum(loop_loop(*arrays, mixed), ()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_without_a_state_it_begins_with_the_starts(kernels, compiled, arrays, mixed):
    x = arrays[:5]
    values, state = compiled(lambda *x: run(kernels, *x, mixed, None))(*x)
    assert state is None
    for a, b in zip(values, loop_loop(*x, *x[3:5], mixed)[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_states_take_the_dtype_of_the_body(kernels):
    x, zero = jnp.ones((1, 20, 1), jnp.bfloat16), jnp.zeros((1, 1), jnp.bfloat16)
    body = lambda i, s: (s[0] + 0.1 * i[0].astype(jnp.float32),)  # noqa: E731
    (values,), (state,) = kernels.loop.loop(body, (x,), (zero,), jnp.arange(20), (zero,))
    assert (values.dtype, state.dtype) == (jnp.float32, jnp.float32)
    np.testing.assert_allclose(state, 2.0, rtol=1e-6)
