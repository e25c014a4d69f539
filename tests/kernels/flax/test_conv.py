"""The convolution and the value before, against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def conv_loop(x, w, pos, state):
    taps, pos = len(w), np.broadcast_to(pos, x.shape[:2])
    seen = np.concatenate([state, x], 1)
    y = x * w[-1]
    for b, t in np.ndindex(*x.shape[:2]):
        for j in range(1, taps):
            if pos[b, t] >= j:
                y[b, t] += w[taps - 1 - j] * seen[b, t + taps - 1 - j]
    return y, seen[:, x.shape[1] :]


def prev_loop(x, pos, state):
    y = np.concatenate([state[:, None], x[:, :-1]], 1)
    return np.where((np.broadcast_to(pos, x.shape[:2]) == 0)[..., None], 0, y), x[:, -1]


@pytest.mark.parametrize("taps", [1, 4])
def test_the_convolution_is_the_loop(kernels, agree, pieces, rng, pos, taps):
    x, w, state = rng.normal(size=(2, 37, 3)), rng.normal(size=(taps, 3)), rng.normal(size=(2, taps - 1, 3))
    op = kernels.conv.causal_conv
    agree(lambda x, w, s: op(x, w, jnp.asarray(pos), s), lambda x, w, s: conv_loop(x, w, pos, s), (x, w, state))
    found = pieces(lambda x, pos, s: op(x, w, pos, s), (x,), pos, state)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10), found, conv_loop(x, w, pos, state))


def test_bias_and_activation_are_taken_of_the_sum(kernels, agree, rng, pos):
    x, w, state, bias, g, scale = (rng.normal(size=s) for s in [(2, 37, 3), (4, 3), (2, 3, 3), (3,), (2, 37, 3), (3,)])

    def loop(x, w, state, bias, g, scale):
        y, last = conv_loop(x, w, pos, state)
        return 0.5 * g * scale * np.tanh(y + bias), last

    def op(x, w, state, bias, g, scale):
        behind = {"activation": activation, "tokens": (g,), "weights": (scale,), "numbers": (0.5,)}
        return kernels.conv.causal_conv(x, w, jnp.asarray(pos), state, bias=bias, **behind)

    activation = kernels.conv.Activation(lambda total, x, w: w[1] * x[0] * w[0] * jnp.tanh(total), None)
    agree(op, loop, (x, w, state, bias, g, scale))


def test_a_sequence_shorter_than_the_taps(kernels, rng):
    x, w = rng.normal(size=(2, 2, 3)), rng.normal(size=(4, 3))
    y, state = kernels.conv.causal_conv(jnp.asarray(x), jnp.asarray(w), jnp.arange(2), jnp.ones((2, 3, 3)))
    np.testing.assert_allclose(y, conv_loop(x, w, np.arange(2), np.zeros((2, 3, 3)))[0])
    np.testing.assert_array_equal(state[:, 1:], x)


def test_the_convolution_sums_in_single_precision(kernels):
    x, w = jnp.ones((1, 4, 1), jnp.bfloat16), jnp.asarray([[1], [-256], [1], [256]], jnp.bfloat16)
    op = kernels.conv.causal_conv
    y, state = op(x, w, jnp.arange(4), jnp.zeros((1, 3, 1), jnp.bfloat16))
    assert (y.dtype, state.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert y[0, 3, 0] == 2  # 256 + 1 is 256 in bfloat16
    biased, _ = op(x, w, jnp.arange(4), bias=jnp.asarray([-255], jnp.bfloat16))
    assert biased[0, 1, 0] == 2  # 256 + 1 - 255


def test_prev_is_the_loop(kernels, agree, pieces, rng, pos):
    x, state = rng.normal(size=(2, 37, 3)), rng.normal(size=(2, 3))
    op = kernels.prev.prev
    agree(lambda x, s: op(x, jnp.asarray(pos), s), lambda x, s: prev_loop(x, pos, s), (x, state))
    jax.tree.map(np.testing.assert_array_equal, pieces(op, (x,), pos, state), prev_loop(x, pos, state))
    np.testing.assert_array_equal(op(jnp.asarray(x), jnp.asarray(pos))[0], prev_loop(x, pos, 0 * state)[0])
