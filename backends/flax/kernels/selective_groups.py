"""Groups of channels that have keys and queries of their own in a selective scan, and which of them share a row."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Shared(NamedTuple):
    """How many groups share a row of keys or queries, and how far apart these groups are."""

    groups: int
    apart: int

    def row(self, group: jax.Array) -> jax.Array:
        """The row of a group."""
        apart = group * 0 + self.apart  # none is below 0, and rounding down would ask for the sign
        return jax.lax.div(group, apart * self.groups) * self.apart + jax.lax.rem(group, apart)

    def added(self, shares: jax.Array) -> jax.Array:
        """Gradients [B, groups, ...] of what every group read, by row."""
        split = shares.reshape(shares.shape[0], -1, self.groups, self.apart, *shares.shape[2:])
        return split.sum(2).reshape(shares.shape[0], -1, *shares.shape[2:])


def rows_of(z: jax.Array, groups: tuple[int, ...]) -> tuple[jax.Array, Shared]:
    """Keys or queries [B, T, *groups, N], 1 where groups share them, as [B, T, rows, N]; repeated if groups that share
    are in several places, so that no single distance leads from one to the next.
    """
    have = z.shape[2:-1]
    lacking = [i for i, (whole, mine) in enumerate(zip(groups, have, strict=True)) if whole != mine]
    run = slice(lacking[0], lacking[-1] + 1) if lacking else slice(0, 0)
    shared = Shared(math.prod(groups[run]), math.prod(groups[run.stop :]) if lacking else 1)
    if math.prod(have[run]) > 1:
        z, shared = jnp.broadcast_to(z, (*z.shape[:2], *groups, z.shape[-1])), Shared(1, 1)
    return z.reshape(*z.shape[:2], -1, z.shape[-1]), shared
