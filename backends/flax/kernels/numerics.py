"""Single precision where it matters, and the inverse of softplus."""

import math

import jax
import jax.numpy as jnp


def fp32(x: jax.Array) -> jax.Array:
    """`x` in at least single precision: bfloat16 becomes float32, float64 stays, complex stays complex."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def inv_softplus(y: jax.Array) -> jax.Array:
    """The x with log(1 + exp(x)) = y, for y > 0: y + log(1 - exp(-y)), exact for small and for large y."""
    return y + jnp.log(-jnp.expm1(-y))


def top(x: jax.Array, k: int, axis: int) -> jax.Array:
    """True at the k largest along an axis; of equals those that come first."""
    order = jnp.argsort(x, axis, stable=True, descending=True)
    return jnp.argsort(order, axis) < k


def softmax_over(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Softmax over several axes together, in at least single precision."""
    return jax.nn.softmax(fp32(x), axes)


def orthogonal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Columns of unit length along the first axis, orthogonal to one another in blocks of as many as there can be."""
    rows, columns = shape[0], math.prod(shape[1:])
    blocks = jnp.linalg.qr(jax.random.normal(key, (-(-columns // rows), rows, rows)))[0]
    return jnp.moveaxis(blocks, 0, 1).reshape(rows, -1)[:, :columns].reshape(shape)
