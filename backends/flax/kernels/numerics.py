"""Single precision where it matters, and functions that JAX lacks."""

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


def orthogonal(key: jax.Array, shape: tuple[int, ...], *, kept: int = 0, rows: int = 1) -> jax.Array:
    """Matrices with columns of unit length, orthogonal to one another in blocks of as many as there can be.

    The first `kept` axes count matrices, the next `rows` are the rows of each, the others its columns. Every orthogonal
    block is as likely as any other (Mezzadri 2007, arXiv:math-ph/0609050, section 5).
    """
    count, height = math.prod(shape[:kept]), math.prod(shape[kept : kept + rows])
    columns = math.prod(shape[kept + rows :])
    q, r = jnp.linalg.qr(jax.random.normal(key, (count, -(-columns // height), height, height)))
    blocks = q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[..., None, :]
    return blocks.swapaxes(1, 2).reshape(count, height, -1)[..., :columns].reshape(shape)
