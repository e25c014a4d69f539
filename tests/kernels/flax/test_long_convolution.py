"""A scan that is read out at once, as a convolution and as a scan, against sums over all earlier tokens in NumPy."""

import jax.numpy as jnp
import numpy as np


def test_values_and_gradients(kernels, agree, rng, mixed):
    """Whole documents are convolved, packed ones scanned."""

    def slow(a, phase, u, c):
        decay = a * np.exp(1j * phase)
        distance = np.maximum(np.arange(37)[:, None] - np.arange(37), 0)
        weights = (c[..., None, None] * decay[..., None, None] ** distance).sum(1)
        both = [np.tril(np.ones((2, 37, 37))), np.tril(distance <= mixed[..., None])]
        return [np.einsum("cts,bts,bsc->btc", weights, seen, u).real for seen in both]

    def run(a, phase, u, c):
        decay = a * jnp.exp(1j * phase)
        places = (jnp.arange(37), jnp.asarray(mixed))
        return [kernels.long_convolution.long_convolution(decay, u, c, pos)[0].real for pos in places]

    arrays = (
        rng.uniform(-0.9, 0.9, (3, 4)),
        rng.normal(size=(3, 4)),
        rng.normal(size=(2, 37, 3)),
        rng.normal(size=(3, 4)),
    )
    agree(run, slow, arrays, [np.ones((2, 37, 1)), (mixed >= 0)[..., None]])
