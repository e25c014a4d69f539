"""The scan of outer products with a decay per key and the equations around it: one kernel, or array code."""

import jax
import jax.numpy as jnp
from kernels.blocks_gpu import machine_of
from kernels.chunk_kernels import fused, kernel_on
from kernels.chunked_scan import chunked_key_scan
from kernels.tiles import Arrays, Gates, Machine, accumulator, with_numbers


def gated_chunked_key_scan(
    gates: Gates,
    x: Arrays,
    w: Arrays,
    pos: jax.Array,
    state: jax.Array | None = None,
    *,
    numbers: tuple[float, ...] = (),
    impl: Machine | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """`chunked_key_scan` of `log_a, k, v, q = gates(x, w)` and what the gates make of its y; where it can, one kernel.

    x: arrays [B, T, G, H, V] or [B, T, G, H, K], or 1 for what a head has, w: arrays [G, H, V] and so on; both with 1
    for groups or heads that share one. x[0] is of the values, in full; operands of products are in half precision if
    any of x is. numbers: those that the gates take behind w. Where the gates say so, y is read before the update, and a
    bonus is added, (q . b) v. Returns out(y, x, w), or y, in the dtype of x[0]. The rest is as for `chunked_key_scan`.
    """
    gates = with_numbers(gates, numbers)
    both = zip((*x, *w), (*gates.x_sides, *gates.w_sides), strict=True)
    keys = next(z.shape[-1] for z, side in both if side == "keys")
    kernel = kernel_on(machine_of(gates, x, w, impl), keys)
    if kernel is not None:
        return fused(kernel, gates, x, w, (), keys, pos, state, interpret=interpret)
    shape, dtype = x[0].shape, x[0].dtype
    acc = accumulator(*x, *w)
    exact = tuple(z.astype(acc) for z in x), tuple(z.astype(acc) for z in w)
    log_a, k, v, q, *bonus = gates.gates(*exact, (pos == 0).reshape(-1, shape[1], 1, 1, 1))
    k, q = (jnp.broadcast_to(z, (*shape[:2], *z.shape[-3:-1], keys)).astype(dtype) for z in (k, q))
    v = jnp.broadcast_to(v, shape).astype(dtype)
    y, last = chunked_key_scan(log_a, k, v, q, pos, state, before=gates.before, impl="xla")
    for b in bonus:
        y = y + jnp.sum(q * b, -1, keepdims=True) * v
    return (y if gates.out is None else gates.out(y.astype(acc), *exact)).astype(dtype), last
