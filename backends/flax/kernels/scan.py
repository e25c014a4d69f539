"""First-order recurrences over time, element by element: the linear scan and the max-plus scan.

Both walk time in place on a CPU, where that is the least memory traffic (XLA drops the loop around a single token),
and combine tokens in a tree elsewhere (`jax.lax.associative_scan`). Gradients are written out: one recurrence backwards
for the adjoint, nothing recorded per step.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Pair = tuple[jax.Array, jax.Array]


def scan(
    a: jax.Array | complex, u: jax.Array, pos: jax.Array, state: jax.Array | None = None
) -> tuple[jax.Array, jax.Array | None]:
    """h[t] = a[t] h[t-1] + u[t], from h = 0 where a document starts (pos == 0).

    u [B, T, *axes]; a broadcasts against u: per token, a weight [*axes], or a number; either may be complex. pos [T] or
    [B, T]; state [B, *axes], h of the token before. Computes in at least single precision; returns h in the dtype of u
    (complex if a is) and the last h unrounded as the new state (None without one).
    """
    a, u, h0, keep, dtype = _prepare(a, u, pos, state, 0)
    h = _linear(a, u, keep, h0)
    return h.astype(dtype), None if state is None else h[:, -1]


def maxscan(
    f: jax.Array | float, i: jax.Array, pos: jax.Array, state: jax.Array | None = None
) -> tuple[jax.Array, jax.Array | None]:
    """m[t] = max(m[t-1] + f[t], i[t]), from m = i where a document starts (pos == 0). A tie passes its gradient to
    m[t-1] + f[t].

    i [B, T, *axes]; f broadcasts against i; pos [T] or [B, T]; state [B, *axes]. Precision and results as for `scan`.
    """
    f, i, m0, keep, dtype = _prepare(f, i, pos, state, -jnp.inf)
    m = _largest(f, i, keep, m0)
    return m.astype(dtype), None if state is None else m[:, -1]


def _prepare(
    a: jax.Array | complex, u: jax.Array, pos: jax.Array, state: jax.Array | None, empty: float
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jnp.dtype]:
    """Decay, input, state before, where the state continues ([B or 1, T or 1, 1...]), and the dtype of the result."""
    acc = jnp.promote_types(jnp.result_type(a, u), jnp.float32)
    dtype = acc if jnp.issubdtype(acc, jnp.complexfloating) else u.dtype
    a = jnp.asarray(a, acc)
    a = a.reshape((1,) * (u.ndim - a.ndim) + a.shape)
    u = jnp.broadcast_to(u.astype(acc), jnp.broadcast_shapes(a.shape, u.shape))
    if pos.ndim == 1:  # whole documents: there is nothing to continue and nothing to restart
        state, keep = None, jnp.ones((1,) * u.ndim, bool)
    else:
        keep = (pos != 0).reshape(pos.shape + (1,) * (u.ndim - 2))
    before = jnp.full_like(u[:, 0], empty) if state is None else state.astype(acc)
    return a, u, before, keep, dtype


@jax.custom_vjp
def _linear(a: jax.Array, u: jax.Array, keep: jax.Array, h0: jax.Array) -> jax.Array:
    def step(h: jax.Array, a: jax.Array, u: jax.Array, keep: jax.Array) -> Pair:
        h = a * jnp.where(keep, h, 0) + u
        return h, h

    def loop(a: jax.Array, u: jax.Array, keep: jax.Array, h0: jax.Array) -> jax.Array:
        return _walk(step, h0, (a, u, keep))[1]

    def tree(a: jax.Array, u: jax.Array, keep: jax.Array, h0: jax.Array) -> jax.Array:
        a = jnp.broadcast_to(jnp.where(keep, a, 0), u.shape)
        u = u.at[:, 0].add(a[:, 0] * h0)
        return _combine(_after, (a, u))[1]

    h: jax.Array = jax.lax.platform_dependent(a, u, keep, h0, cpu=loop, default=tree)
    return h


def _linear_forward(
    a: jax.Array, u: jax.Array, keep: jax.Array, h0: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    h = _linear(a, u, keep, h0)
    return h, (a, keep, h0, h)


def _linear_backward(saved: tuple[jax.Array, ...], dh: jax.Array) -> tuple[jax.Array | None, ...]:
    a, keep, h0, h = saved
    du, dh0 = _adjoint(a, keep, dh)
    before = jnp.concatenate([h0[:, None], h[:, :-1]], axis=1)
    da = _product_to(a.shape, du, jnp.where(keep, before, 0))
    return da, du, None, dh0


_linear.defvjp(_linear_forward, _linear_backward)


@jax.custom_vjp
def _largest(f: jax.Array, i: jax.Array, keep: jax.Array, m0: jax.Array) -> jax.Array:
    def step(m: jax.Array, f: jax.Array, i: jax.Array, keep: jax.Array) -> Pair:
        m = jnp.maximum(jnp.where(keep, m + f, -jnp.inf), i)
        return m, m

    def loop(f: jax.Array, i: jax.Array, keep: jax.Array, m0: jax.Array) -> jax.Array:
        return _walk(step, m0, (f, i, keep))[1]

    def tree(f: jax.Array, i: jax.Array, keep: jax.Array, m0: jax.Array) -> jax.Array:
        f = jnp.broadcast_to(jnp.where(keep, f, -jnp.inf), i.shape)
        i = i.at[:, 0].max(f[:, 0] + m0)
        return _combine(_larger, (f, i))[1]

    m: jax.Array = jax.lax.platform_dependent(f, i, keep, m0, cpu=loop, default=tree)
    return m


def _largest_forward(
    f: jax.Array, i: jax.Array, keep: jax.Array, m0: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    m = _largest(f, i, keep, m0)
    return m, (f, i, keep, m0, m)


def _largest_backward(saved: tuple[jax.Array, ...], dm: jax.Array) -> tuple[jax.Array | None, ...]:
    f, i, keep, m0, m = saved
    before = jnp.concatenate([m0[:, None], m[:, :-1]], axis=1)
    carried = keep & (before + f >= i)  # the maximum came from the token before: there the gradient walks on
    through, dm0 = _adjoint(carried.astype(dm.dtype), keep, dm)
    df = _sum_to(f.shape, jnp.where(carried, through, 0))
    return df, jnp.where(carried, 0, through), None, dm0


_largest.defvjp(_largest_forward, _largest_backward)


def _adjoint(a: jax.Array, keep: jax.Array, dh: jax.Array) -> Pair:
    """g[t] = dh[t] + e[t+1] with e[t] = a[t] g[t] (0 where a document starts): the adjoint of each step, and e[0]."""

    def step(e: jax.Array, a: jax.Array, dh: jax.Array, keep: jax.Array) -> Pair:
        g = dh + e
        return jnp.where(keep, a * g, 0), g

    def loop(a: jax.Array, keep: jax.Array, dh: jax.Array) -> Pair:
        e, g = _walk(step, jnp.zeros_like(dh[:, 0]), (a, dh, keep), reverse=True)
        return g, e

    def tree(a: jax.Array, keep: jax.Array, dh: jax.Array) -> Pair:
        a = jnp.broadcast_to(jnp.where(keep, a, 0), dh.shape)
        e = _combine(_after, (a, a * dh), reverse=True)[1]
        return dh.at[:, :-1].add(e[:, 1:]), e[:, 0]

    adjoint: Pair = jax.lax.platform_dependent(a, keep, dh, cpu=loop, default=tree)
    return adjoint


def _combine(step: Callable[[Pair, Pair], Pair], pairs: Pair, reverse: bool = False) -> Pair:
    """All prefixes along time, in a tree."""
    prefixes: Pair = jax.lax.associative_scan(step, pairs, reverse=reverse, axis=1)
    return prefixes


def _after(first: Pair, then: Pair) -> Pair:
    """Two affine steps h -> a h + u as one."""
    return first[0] * then[0], then[0] * first[1] + then[1]


def _larger(first: Pair, then: Pair) -> Pair:
    """Two steps m -> max(m + f, i) as one."""
    return first[0] + then[0], jnp.maximum(first[1] + then[0], then[1])


def _walk(step: Callable[..., Pair], carry: jax.Array, inputs: tuple[jax.Array, ...], reverse: bool = False) -> Pair:
    """The last carry and all outputs [B, T, *axes] of `carry, output = step(carry, *inputs[t])`, updated in place."""
    time = max(x.shape[1] for x in inputs)

    def body(i: jax.Array, carried: Pair) -> Pair:
        t = time - 1 - i if reverse else i
        now = (jax.lax.dynamic_index_in_dim(x, t if x.shape[1] > 1 else 0, 1, keepdims=False) for x in inputs)
        carry, output = step(carried[0], *now)
        return carry, jax.lax.dynamic_update_index_in_dim(carried[1], output, t, 1)

    outputs = jnp.zeros((carry.shape[0], time, *carry.shape[1:]), carry.dtype)
    result: Pair = jax.lax.fori_loop(0, time, body, (carry, outputs))
    return result


def _product_to(shape: tuple[int, ...], x: jax.Array, y: jax.Array) -> jax.Array:
    """`_sum_to` of x y; XLA 0.10 takes several times as long as a loop for a sum of products over time on a CPU."""
    if shape[1] == x.shape[1]:
        return _sum_to(shape, x * y)

    def loop(x: jax.Array, y: jax.Array) -> jax.Array:
        def add(t: jax.Array, total: jax.Array) -> jax.Array:
            now = (jax.lax.dynamic_index_in_dim(z, t, 1) for z in (x, y))
            return total + next(now) * next(now)

        return _sum_to(shape, jax.lax.fori_loop(0, x.shape[1], add, jnp.zeros_like(x[:, :1])))

    def whole(x: jax.Array, y: jax.Array) -> jax.Array:
        return _sum_to(shape, x * y)

    found: jax.Array = jax.lax.platform_dependent(x, y, cpu=loop, default=whole)
    return found


def _sum_to(shape: tuple[int, ...], x: jax.Array) -> jax.Array:
    """Sums x over the axes along which `shape` was broadcast."""
    return x.sum(tuple(n for n, size in enumerate(shape) if size != x.shape[n]), keepdims=True)
