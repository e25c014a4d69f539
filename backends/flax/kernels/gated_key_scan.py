"""The scan of outer products with a decay per key and the equations around it, which are array code."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from kernels.chunked_scan import chunked_key_scan
from kernels.tiles import Arrays, Machine, accumulator


class ChunkedKeyGates(NamedTuple):
    """Equations `gates(x, w, first) -> (log_a, k, v, q)`, before the scan, and `out(y, x, w)` behind it, if any.

    first: where a document starts. before: what is read is the state before the update, with the product of v and one
    more thing that gates give, if they do.
    """

    gates: Callable[[Arrays, Arrays, jax.Array], tuple[jax.Array, ...]]
    out: Callable[[jax.Array, Arrays, Arrays], jax.Array] | None = None
    before: bool = False


def gated_chunked_key_scan(
    gates: ChunkedKeyGates,
    x: Arrays,
    w: Arrays,
    pos: jax.Array,
    state: jax.Array | None = None,
    *,
    numbers: tuple[float, ...] = (),
    impl: Machine | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """`chunked_key_scan` of what gates make of x and w, and what they make of its y: array code before and behind it.

    x: arrays [B, T, G, H, V] or [B, T, G, H, K], or 1 for what a head has, w: arrays [G, H, V] and so on; both with 1
    for groups or heads that share one. x[0] is of the values, in full; keys, values and queries go into products in its
    type. numbers: those that the gates take behind w. Returns out(y, x, w), or y, in the dtype of x[0]. The rest is as
    for `chunked_key_scan`.
    """
    shape, dtype = x[0].shape, x[0].dtype
    acc = accumulator(*x, *w)
    exact = tuple(z.astype(acc) for z in x), (*(z.astype(acc) for z in w), *numbers)
    log_a, k, v, q, *bonus = gates.gates(*exact, (pos == 0).reshape(-1, shape[1], 1, 1, 1))
    log_a = jnp.broadcast_to(log_a, (*shape[:-1], k.shape[-1]))
    k, v, q = (jnp.broadcast_to(z, (*shape[:2], *z.shape[-3:])).astype(dtype) for z in (k, v, q))
    v = jnp.broadcast_to(v, shape)
    y, last = chunked_key_scan(log_a, k, v, q, pos, state, before=gates.before, impl=impl, interpret=interpret)
    for b in bonus:
        y = y + jnp.sum(q * b, -1, keepdims=True) * v
    return (y if gates.out is None else gates.out(y.astype(acc), *exact)).astype(dtype), last
