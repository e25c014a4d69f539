"""Scans with their gates: one kernel of the equations around a recurrence and the recurrence, where there is one.

On a CPU the gates are ordinary array code around `scan` and `selective_scan`. Gradients, states and where documents
start are the same everywhere.
"""

import jax
import jax.numpy as jnp
from kernels.gated_gpu import gated_scan_gpu
from kernels.gated_tpu import gated_scan_tpu
from kernels.scan import scan
from kernels.tiles import Arrays, Gates, Machine, accumulator, machine

__all__ = ["Gates", "gated_scan"]


def gated_scan(
    gates: Gates,
    x: Arrays,
    w: Arrays,
    pos: jax.Array,
    state: jax.Array | None = None,
    *,
    impl: Machine | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """h[t] = a[t] h[t-1] + u[t] with a, u = gates(x[t], w, pos[t] == 0), from h = 0 where a document starts.

    x: arrays [B, T, *axes], w: arrays [*axes], or what broadcasts to them; pos [T] or [B, T]; state [B, *axes], h of
    the token before. Computes in at least single precision; returns h [B, T, *axes] in the dtype of x[0] and the last
    h unrounded as the new state (None without one). impl, interpret: for tests, the kernel of another machine.
    """
    x, w = _wide(x, w)
    h0 = None if pos.ndim == 1 else state
    chosen = machine(impl, x[0].shape[1])
    if chosen == "xla":
        first = (pos == 0).reshape((-1, x[0].shape[1]) + (1,) * (x[0].ndim - 2))
        acc = accumulator(*x, *w)
        a, u = gates.gates(tuple(z.astype(acc) for z in x), tuple(z.astype(acc) for z in w), first)
        h, last = scan(a, jnp.broadcast_to(u, x[0].shape), pos, state)
        return h.astype(x[0].dtype), last
    run = gated_scan_tpu if chosen == "tpu" else gated_scan_gpu
    h, last = run(gates, x, w, pos, h0, interpret=interpret)
    return h, None if state is None else last


def _wide(x: Arrays, w: Arrays) -> tuple[Arrays, Arrays]:
    """All inputs [B, T, *axes], all weights [*axes]."""
    shape = jnp.broadcast_shapes(*(z.shape for z in x), *((1, 1, *jnp.shape(z)) for z in w))
    return tuple(jnp.broadcast_to(z, shape) for z in x), tuple(jnp.broadcast_to(z, shape[2:]) for z in w)
