"""Element-wise functions that kernels of every machine can compile: TPUs know neither expm1, nor erfc, nor sign."""

import jax
import jax.numpy as jnp


def expm1(x: jax.Array) -> jax.Array:
    """`exp(x) - 1`, as tanh(x / 2) (exp(x) + 1), which does not cancel."""
    return jnp.tanh(0.5 * x) * (jnp.exp(x) + 1.0)


def inv_softplus(y: jax.Array) -> jax.Array:
    """The x with log(1 + exp(x)) = y, for y > 0."""
    return y + jnp.log(-expm1(-y))


def root(x: jax.Array) -> jax.Array:
    """The square root, without a slope where x is 0.

    There it is infinite, and what x is made of mostly has none (a norm, relu): 0 times infinity would be nan.
    """
    return jnp.where(x == 0, 0.0, jnp.sqrt(jnp.where(x == 0, 1.0, x)))


def power(x: jax.Array, p: jax.Array | float) -> jax.Array:
    """`x ** p`; where x is 0 and p between 0 and 1, without a slope, as in `root`."""
    flat = (x == 0) & (p > 0) & (p < 1)
    return jnp.where(flat, 0.0, jnp.where(flat, 1.0, x) ** p)


def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution's function."""
    return 0.5 * x * (1.0 + jax.lax.erf(0.7071067811865476 * x))


def sign(x: jax.Array) -> jax.Array:
    """-1, 0 or 1."""
    return jnp.where(x > 0, 1.0, jnp.where(x < 0, -1.0, jnp.zeros_like(x)))


def mix_heads(a: jax.Array, W: jax.Array) -> jax.Array:
    """`sum_h W[h, g] a[h]` of pairs a [heads, queries, keys], [heads', queries, keys]."""
    return _dot(W.T, a.reshape(a.shape[0], -1)).reshape(W.shape[1], *a.shape[1:])


def unmix_heads(d: jax.Array, W: jax.Array) -> jax.Array:
    """The gradient of the pairs in `mix_heads`, `sum_g W[h, g] d[g]`."""
    return _dot(W, d.reshape(d.shape[0], -1)).reshape(W.shape[0], *d.shape[1:])


def mix_heads_matrix(a: jax.Array, W: jax.Array, d: jax.Array) -> jax.Array:
    """The gradient of the matrix in `mix_heads`, the sum over pairs of `a[h] d[g]`."""
    return _dot(a.reshape(a.shape[0], -1), d.reshape(d.shape[0], -1).T)


def _dot(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.dot(left, right, precision=jax.lax.Precision.HIGHEST)
