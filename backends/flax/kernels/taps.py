"""What the kernels of the causal convolution have in common on every machine.

The bias lies behind the taps as one more row of their weights, w [taps + 1, C].
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from kernels.tiles import accumulator


def with_bias(x: jax.Array, w: jax.Array, bias: jax.Array | None) -> jax.Array:
    """The weights [taps + 1, C] of x [B, T, *axes], from w [taps, *axes] and bias [*axes]."""
    added = jnp.zeros(x.shape[2:], w.dtype) if bias is None else jnp.broadcast_to(bias, x.shape[2:])
    return jnp.concatenate([w, added[None]]).reshape(w.shape[0] + 1, -1).astype(accumulator(x, w))


def weighted(w: jax.Array, place: jax.Array, now: jax.Array, earlier: Iterable[tuple[int, jax.Array]]) -> jax.Array:
    """The sum of taps and bias of tokens, given their inputs and, by distance, those before them."""
    taps = w.shape[0] - 1
    total = now * w[taps - 1 : taps, :] + w[taps:, :]
    for j, tap in earlier:
        total = total + jnp.where(place >= j, tap, 0) * w[taps - 1 - j : taps - j, :]
    return total


def slope(z: jax.Array) -> jax.Array:
    """The derivative of silu."""
    s = jax.nn.sigmoid(z)
    return s * (1 + z * (1 - s))


def before_gradient(
    silu: bool, x: jax.Array, w: jax.Array, pos: jax.Array, before: jax.Array, dy: jax.Array
) -> jax.Array:
    """That of the inputs before the first [B, taps - 1, C]: tap j of token t < j reads the one at t - j.

    x, dy [B, T, C], pos [1 or B, T].
    """
    past = before.shape[1]
    few = min(past, dy.shape[1])
    places, d = pos[:, :few, None], dy[:, :few].astype(w.dtype)
    if silu:
        stream = jnp.concatenate([before, x[:, :few]], 1).astype(w.dtype)
        earlier = ((j, stream[:, past - j : past - j + few]) for j in range(1, past + 1))
        d = d * slope(weighted(w, places, stream[:, past:], earlier))
    found = jnp.zeros((dy.shape[0], past, dy.shape[2]), w.dtype)
    for j in range(1, past + 1):
        count = min(j, few)
        seen = jnp.where(places[:, :count] >= j, d[:, :count] * w[past - j], 0)
        found = found.at[:, past - j : past - j + count].add(seen)
    return found.astype(before.dtype)


def taps_cost(steps: int, silu: bool, x: jax.Array, w: jax.Array, moved: int) -> pl.CostEstimate:
    """`steps` operations for each tap of each element, and an exponential if there is an activation."""
    work = steps * (w.shape[0] - 1) * x.size
    return pl.CostEstimate(flops=work, transcendentals=silu * x.size, bytes_accessed=moved)
