"""The value one token back."""

import jax
import jax.numpy as jnp


def prev(x: jax.Array, pos: jax.Array, state: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
    """y[t] = x[t - 1], and zero where a document starts.

    x [B, T, *axes]; pos [T] or [B, T]; state [B, *axes], the last value of the tokens before. Returns y in the shape
    of x and the new state (None without one).
    """
    first = jnp.zeros_like(x[:, 0]) if state is None or pos.ndim == 1 else state.astype(x.dtype)
    y = jnp.concatenate([first[:, None], x[:, :-1]], axis=1)
    if pos.ndim == 2:
        starts = (pos == 0).reshape(pos.shape + (1,) * (x.ndim - 2))
        y = jnp.where(starts, 0, y)
    return y, None if state is None else x[:, -1]
