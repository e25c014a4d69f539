"""The delta rule in chunks: what a state holds at a key is corrected, not only added to.

Only the state before each chunk is kept for the backward pass, which computes every chunk again.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from kernels.chunk_sizes import LOWEST, chunk_length
from kernels.tiles import accumulator


def delta_scan(
    log_a: jax.Array,
    k: jax.Array,
    v: jax.Array,
    r: jax.Array,
    q: jax.Array,
    pos: jax.Array,
    state: jax.Array | None = None,
    *,
    decayed: bool = True,
) -> tuple[jax.Array, jax.Array | None]:
    """S[t] = D + k[t] (v[t] - r[t] . D)^T with D = exp(log_a[t]) S[t-1], and y[t] = q[t] . S[t].

    log_a [B, T, H], at most 0; k, r, q [B, T, H, K]; v [B, T, H, V]; pos [T] (whole documents, the state is not read)
    or [B, T]; a document starts from S = 0. state [B, H, K, V] or None. decayed: whether r reads the state after its
    decay, as above, or S[t-1] itself. Returns y [B, T, H, V] in the dtype of v and the last S unrounded (None without a
    state).

    What is added, e[t] = v[t] - r[t] . D, is the solution of a triangular system in each chunk, as S is the sum of what
    was added; with it the rest is a scan of outer products (Yang et al. 2024, arXiv:2406.06484, section 3).
    """
    acc, dtype, time = accumulator(log_a, k, v, r, q), v.dtype, v.shape[1]
    S = jnp.zeros((v.shape[0], v.shape[2], k.shape[-1], v.shape[-1]), acc)
    if state is not None and pos.ndim == 2:
        S = state.astype(acc)
    log_a, k, v, r, q = (x.astype(acc) for x in (jnp.maximum(log_a, LOWEST), k, v, r, q))
    size = chunk_length(time, k.shape[-1], v.shape[-1])
    count = -(-time // size)
    more = count * size - time
    pos = jnp.broadcast_to(pos, v.shape[:2])
    pos = jnp.concatenate([pos, pos[:, -1:] + 1 + jnp.arange(more)], 1)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, count * size - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)

    part = jax.checkpoint(partial(_chunk, decayed))
    S, y = jax.lax.scan(lambda S, chunk: part(S, *chunk), S, tuple(map(cut, (log_a, k, v, r, q, pos))))
    y = jnp.moveaxis(y, 0, 1).reshape(v.shape[0], -1, *v.shape[2:])[:, :time].astype(dtype)
    return y, None if state is None else S


def _chunk(
    decayed: bool,
    S: jax.Array,
    log_a: jax.Array,
    k: jax.Array,
    v: jax.Array,
    r: jax.Array,
    q: jax.Array,
    pos: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The state [B, H, K, V] after Q tokens, and their y [B, Q, H, V]."""
    k, v, r, q = (jnp.moveaxis(x, 1, 2) for x in (k, v, r, q))  # [B, H, Q, ...]
    total = jnp.cumsum(jnp.moveaxis(log_a, 1, 2), -1)
    place = jnp.arange(pos.shape[1])
    distance = place[:, None] - place
    together = ((distance >= 0) & (distance <= pos[:, :, None]))[:, None]
    before, after = (pos > place)[:, None], (place[-1] - place <= pos[:, -1:])[:, None]
    since = total if decayed else total - jnp.moveaxis(log_a, 1, 2)

    def between(end: jax.Array, pairs: jax.Array) -> jax.Array:
        return jnp.exp(jnp.where(pairs, end[..., :, None] - total[..., None, :], -jnp.inf))

    read = jnp.exp(jnp.where(before, since, -jnp.inf))[..., None] * r
    corrected = (r @ k.swapaxes(-1, -2)) * between(since, together & (distance > 0))
    added = solve_triangular(corrected, v - read @ S, lower=True, unit_diagonal=True)
    y = (q @ k.swapaxes(-1, -2) * between(total, together)) @ added
    enter = jnp.exp(jnp.where(before, total, -jnp.inf))[..., None]
    left = jnp.exp(jnp.where(after, total[..., -1:] - total, -jnp.inf))[..., None]
    y = y + (enter * q) @ S
    S = enter[..., -1:, :] * S + (left * k).swapaxes(-1, -2) @ added
    return S, jnp.moveaxis(y, 2, 1)
