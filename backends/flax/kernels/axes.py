"""One axis as several."""

import jax


def unflatten(x: jax.Array, axis: int, sizes: tuple[int, ...]) -> jax.Array:
    """`x` with an axis, counted from the end, cut into axes of these sizes, the last of them varying fastest."""
    after = x.ndim + axis + 1
    return x.reshape(*x.shape[: after - 1], *sizes, *x.shape[after:])
