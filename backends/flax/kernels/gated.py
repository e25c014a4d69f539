"""Scans with their gates: one kernel of the equations around a recurrence and the recurrence, where there is one.

On a CPU the gates are ordinary array code around `scan` and `selective_scan`. Gradients, states and where documents
start are the same everywhere.
"""

import math

import jax
import jax.numpy as jnp
from kernels.blocks_gpu import machine_of
from kernels.gated_gpu import gated_scan_gpu
from kernels.gated_tpu import gated_scan_tpu
from kernels.prev import prev
from kernels.scan import scan
from kernels.selective_scan import fused, selective_scan
from kernels.tiles import Arrays, Gates, Machine, accumulator, flat, read, with_numbers

__all__ = ["Gates", "gated_scan", "gated_selective_scan"]


def gated_scan(
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
    """h[t] = a[t] h[t-1] + u[t] with a, u = gates(x[t], w, pos[t] == 0), from h = 0 where a document starts; out of h.

    x: arrays [B, T, *axes], w: arrays [*axes], or what broadcasts to them; or, if any of x has one axis of channels and
    others several, each with all of them. pos [T] or [B, T]; state [B, *axes], h of the token before; numbers: those
    that the gates take. Computes in at least single precision; returns out(h, x, w), or h, [B, T, *axes], flat if any
    of x was, in the dtype of x[0], and the last h unrounded as the new state (None without one). impl, interpret: for
    tests, the kernel of another machine. With `gates.before` out takes h of the token before.
    """
    if is_flat(x, w):
        x, w = tuple(flat(z, 2) for z in x), tuple(flat(z, 0) for z in w)
        given = None if state is None else flat(state, 1)
        y, last = gated_scan(gates, x, w, pos, given, numbers=numbers, impl=impl, interpret=interpret)
        return y, None if state is None or last is None else last.reshape(state.shape)
    x, w = wide_arrays(x, w)
    gates = with_numbers(gates, numbers)
    h0 = None if pos.ndim == 1 else state
    chosen = machine_of(gates, x, w, impl)
    if chosen == "xla":
        first = (pos == 0).reshape((-1, x[0].shape[1]) + (1,) * (x[0].ndim - 2))
        acc = accumulator(*x, *w)
        exact = tuple(z.astype(acc) for z in x), tuple(z.astype(acc) for z in w)
        a, u = gates.gates(*exact, first)
        h, last = scan(a, jnp.broadcast_to(u, x[0].shape), pos, state)
        h = prev(h, pos, state)[0] if gates.before else h
        return read(gates, h, *exact).astype(x[0].dtype), last
    run = gated_scan_tpu if chosen == "tpu" else gated_scan_gpu
    y, last = run(gates, x, w, pos, h0, interpret=interpret)
    return y, None if state is None else last


def gated_selective_scan(
    gates: Gates,
    x: Arrays,
    w: Arrays,
    A: jax.Array,
    B: jax.Array,
    C: jax.Array,
    pos: jax.Array,
    state: jax.Array | None = None,
    *,
    numbers: tuple[float, ...] = (),
    impl: Machine | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """h[t] = exp(dt[t] A) h[t-1] + v[t] B[t] and y[t] = sum over n of C[t] h[t], the gates being those of dt and v.

    x: arrays [B, T, *axes], w: arrays [*axes], or what broadcasts to them; pos, numbers as for `gated_scan`; A, B, C,
    state as for `selective_scan`, whose x is v. Returns out(y, x, w), or y, [B, T, *axes] in the dtype of x[0], and the
    last h unrounded (None without a state).
    """
    x, w = wide_arrays(x, w, A.shape[:-1])
    gates = with_numbers(gates, numbers)
    shape = x[0].shape
    A = jnp.broadcast_to(A, (*shape[2:], A.shape[-1]))
    h0 = None if pos.ndim == 1 else state
    kernel = fused(machine_of(gates, x, w, impl), shape, B)
    if kernel is not None:
        o, last = kernel(gates, x, w, A, B, C, pos, h0, interpret=interpret)
        return o, None if state is None else last
    acc = accumulator(*x, *w)
    first = (pos == 0).reshape((-1, shape[1]) + (1,) * (len(shape) - 2))
    exact = tuple(z.astype(acc) for z in x), tuple(z.astype(acc) for z in w)
    dt, v = gates.gates(*exact, first)
    y, last = selective_scan(dt, A, jnp.broadcast_to(v, shape), B, C, pos, state, impl="xla")
    o = y if gates.out is None else gates.out(y, *exact)
    return o.astype(x[0].dtype), last


def is_flat(x: Arrays, w: Arrays) -> bool:
    """Whether some token has all channels as one axis where another, or a weight, has several axes."""
    shapes = [*(z.shape[2:] for z in x), *(jnp.shape(z) for z in w)]
    channels = max(map(math.prod, shapes))
    return any(z.shape[2:] == (channels,) for z in x) and any(len(shape) > 1 for shape in shapes)


def wide_arrays(x: Arrays, w: Arrays, axes: tuple[int, ...] = ()) -> tuple[Arrays, Arrays]:
    """All inputs [B, T, *axes], all weights [*axes]; the axes are those that any of them has."""
    shape = jnp.broadcast_shapes(*(z.shape for z in x), *((1, 1, *jnp.shape(z)) for z in w), axes)
    return tuple(jnp.broadcast_to(z, shape) for z in x), tuple(jnp.broadcast_to(z, shape[2:]) for z in w)
