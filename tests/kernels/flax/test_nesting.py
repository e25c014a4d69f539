"""The kernels inside a scan over stacked layers with remat, as models run them."""

import jax
import jax.numpy as jnp
import numpy as np


def test_layers_may_be_scanned_and_computed_again(kernels, compiled, monkeypatch, rng, mixed):
    monkeypatch.setattr(kernels.attention, "BLOCK", 8)
    pos, weights = jnp.asarray(mixed), {"a": rng.normal(size=(3, 4)), "w": rng.normal(size=(3, 2, 4))}

    def layer(x, weights):
        y, _ = kernels.conv.causal_conv(x, weights["w"], pos)
        y, _ = kernels.scan.scan(jax.nn.sigmoid(weights["a"]), y, pos)
        y, _ = kernels.selective_scan.selective_scan(jnp.abs(x), -jnp.ones((4, 2)), y, y[..., :2], y[..., 2:], pos)
        k = y[:, :, None]
        y, _ = kernels.attention.attention(k[:, :, :, None], k, k, pos, scale=0.5)
        return x + y.reshape(x.shape), None

    def scanned(weights, x):
        return jnp.sum(jnp.sin(jax.lax.scan(jax.checkpoint(layer), x, weights)[0]))

    def unrolled(weights, x):
        for n in range(3):
            x, _ = layer(x, jax.tree.map(lambda w, n=n: w[n], weights))
        return jnp.sum(jnp.sin(x))

    x = rng.normal(size=(2, 37, 4))
    found, want = (compiled(jax.grad(loss, (0, 1)))(weights, x) for loss in (scanned, unrolled))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, want)
