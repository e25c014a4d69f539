"""Element-wise functions that kernels of every machine can compile: TPUs know neither expm1, nor erfc, nor sign."""

import jax
import jax.numpy as jnp


def expm1(x: jax.Array) -> jax.Array:
    """`exp(x) - 1`, as tanh(x / 2) (exp(x) + 1), which does not cancel."""
    return jnp.tanh(0.5 * x) * (jnp.exp(x) + 1.0)


def inv_softplus(y: jax.Array) -> jax.Array:
    """The x with log(1 + exp(x)) = y, for y > 0."""
    return y + jnp.log(-expm1(-y))


def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution's function."""
    return 0.5 * x * (1.0 + jax.lax.erf(0.7071067811865476 * x))


def sign(x: jax.Array) -> jax.Array:
    """-1, 0 or 1."""
    return jnp.where(x > 0, 1.0, jnp.where(x < 0, -1.0, jnp.zeros_like(x)))
