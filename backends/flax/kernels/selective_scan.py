"""The selective scan of Mamba (Gu and Dao 2023, arXiv:2312.00752): a state per channel, read out at each token.

The state [B, groups, N, C] exists for the present token and at the start of every STEPS tokens; the backward pass
computes the states in between again. Time is walked in place, with the channels innermost.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from kernels.selective_gpu import MOST, selective_scan_gpu
from kernels.selective_keys_tpu import fits
from kernels.selective_tpu import selective_scan_tpu
from kernels.tiles import Gates, Machine, machine

STEPS = 32  # tokens whose states the backward pass holds at a time
Arrays = tuple[jax.Array, ...]
Sums = tuple[jax.Array, jax.Array, Arrays]
GIVEN = Gates(  # x and dt as they come
    gates=lambda x, w, first: (x[1], x[0]),
    gates_grad=lambda x, w, first, ddt, dv: ((dv, ddt), ()),
)


def selective_scan(
    dt: jax.Array,
    A: jax.Array,
    x: jax.Array,
    B: jax.Array,
    C: jax.Array,
    pos: jax.Array,
    state: jax.Array | None = None,
    *,
    impl: Machine | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """h[t] = exp(dt[t] A) h[t-1] + x[t] B[t] and y[t] = sum over n of C[t] h[t], from h = 0 where a document starts.

    dt, x [B, T, *axes] and A [*axes, N], or what broadcasts to these; B, C [B, T, N], or [B, T, *groups, N] with the
    first of the axes, 1 where groups share them; pos [T] or [B, T]; state [B, *axes, N], h of the token before.
    Computes in at least single precision; returns y [B, T, *axes] in the dtype of x and the last h unrounded (None
    without a state). impl, interpret: for tests, the kernel of another machine.
    """
    shape, states = jnp.broadcast_shapes(dt.shape, x.shape, A.shape[:-1]), A.shape[-1]
    dt, x, A = jnp.broadcast_to(dt, shape), jnp.broadcast_to(x, shape), jnp.broadcast_to(A, (*shape[2:], states))
    before = None if pos.ndim == 1 else state
    kernel = fused(impl, shape, B)
    if kernel is not None:
        y, last = kernel(GIVEN, (x, dt), (), A, B, C, pos, before, interpret=interpret)
        return y, None if state is None else last
    acc = jnp.promote_types(jnp.result_type(dt, A, x, B, C), jnp.float32)
    groups = shape[2 : B.ndim - 1]
    count = math.prod(groups)

    def of_groups(z: jax.Array) -> jax.Array:
        whole = jnp.broadcast_to(z.astype(acc), (*shape[:2], *groups, states))
        return whole.reshape(*shape[:2], count, states)

    A = A.astype(acc).reshape(count, -1, states)
    h = jnp.zeros((shape[0], *A.shape), acc) if before is None else before.astype(acc).reshape(-1, *A.shape)
    dt, v = (z.astype(acc).reshape(*shape[:2], count, -1) for z in (dt, x))
    keep = jnp.broadcast_to(pos != 0, shape[:2])
    y, h = _scan(A.mT, (dt, v, of_groups(B), of_groups(C)), keep, h.mT)
    return y.reshape(shape).astype(x.dtype), None if state is None else h.mT.reshape(shape[0], *shape[2:], states)


def fused(
    impl: Machine | None, shape: tuple[int, ...], B: jax.Array
) -> Callable[..., tuple[jax.Array, jax.Array]] | None:
    """The kernel for tokens [B, T, *axes] with keys B, if there is one."""
    match machine(impl, shape[1]):
        case "tpu" if fits(B, shape[2:]):
            return selective_scan_tpu
        case "gpu" if B.shape[-1] <= MOST:
            return selective_scan_gpu
        case _:
            return None


@jax.custom_vjp
def _scan(A: jax.Array, tokens: Arrays, keep: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """y and the last h; A [groups, N, C], h [B, groups, N, C], tokens [B, T, groups, C or N]."""
    y, h, _ = _forward(A, tokens, keep, h)
    return y, h


def _forward(A: jax.Array, tokens: Arrays, keep: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """y, the last h, and h before every STEPS tokens [T / STEPS, B, groups, N, C]."""
    time = keep.shape[1]

    def token(t: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        h, y = carry
        dt, x, B, C, go = _at(t, (*tokens, keep))
        h = _decay(A, dt, go, h) + x[..., None, :] * B[..., None]
        return h, _put(y, t, jnp.sum(h * C[..., None], -2))

    def block(n: jax.Array, carry: Arrays) -> Arrays:
        h, y, starts = carry
        starts = jax.lax.dynamic_update_index_in_dim(starts, h, n, 0)
        h, y = jax.lax.fori_loop(n * STEPS, jnp.minimum(time, (n + 1) * STEPS), token, (h, y))
        return h, y, starts

    count = -(-time // STEPS)
    start = (h, jnp.zeros_like(tokens[1]), jnp.zeros((count, *h.shape), h.dtype))
    h, y, starts = jax.lax.fori_loop(0, count, block, start)
    return y, h, starts


def _save(
    A: jax.Array, tokens: Arrays, keep: jax.Array, h: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, Arrays, jax.Array, jax.Array]]:
    y, h, starts = _forward(A, tokens, keep, h)
    return (y, h), (A, tokens, keep, starts)


def _backward(
    saved: tuple[jax.Array, Arrays, jax.Array, jax.Array], gradients: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, Arrays, None, jax.Array]:
    A, tokens, keep, starts = saved
    dy, e = gradients
    time = keep.shape[1]

    def block(i: jax.Array, carry: Sums) -> Sums:
        n = starts.shape[0] - 1 - i
        first, last = n * STEPS, jnp.minimum(time, (n + 1) * STEPS) - 1
        decayed = _again(A, tokens, keep, starts[n], first, last)

        def token(i: jax.Array, carry: Sums) -> Sums:
            e, dA, grads = carry
            t = last - i
            dt, x, B, C, go, d = _at(t, (*tokens, keep, dy))
            h = jax.lax.dynamic_index_in_dim(decayed, t - first, 0, keepdims=False)
            g = e + d[..., None, :] * C[..., None]
            turned = g * h  # the gradient of dt A
            ddt, dx = jnp.sum(turned * A, -2), jnp.sum(g * B[..., None], -2)
            new = h + x[..., None, :] * B[..., None]
            dB, dC = jnp.sum(g * x[..., None, :], -1), jnp.sum(new * d[..., None, :], -1)
            grads = tuple(_put(z, t, now) for z, now in zip(grads, (ddt, dx, dB, dC), strict=True))
            return _decay(A, dt, go, g), dA + jnp.sum(turned * dt[..., None, :], 0), grads

        result: Sums = jax.lax.fori_loop(0, last + 1 - first, token, carry)
        return result

    zeros = tuple(map(jnp.zeros_like, tokens))
    e, dA, grads = jax.lax.fori_loop(0, starts.shape[0], block, (e, jnp.zeros_like(A), zeros))
    return dA, grads, None, e


_scan.defvjp(_save, _backward)


def _again(A: jax.Array, tokens: Arrays, keep: jax.Array, h: jax.Array, first: jax.Array, last: jax.Array) -> jax.Array:
    """exp(dt A) h[t-1] of the tokens first to last, [STEPS, B, groups, N, C], from h before the first."""

    def token(t: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        h, decayed = carry
        dt, x, B, _, go = _at(t, (*tokens, keep))
        h = _decay(A, dt, go, h)
        decayed = jax.lax.dynamic_update_index_in_dim(decayed, h, t - first, 0)
        return h + x[..., None, :] * B[..., None], decayed

    decayed: jax.Array = jax.lax.fori_loop(first, last + 1, token, (h, jnp.zeros((STEPS, *h.shape), h.dtype)))[1]
    return decayed


def _decay(A: jax.Array, dt: jax.Array, keep: jax.Array, h: jax.Array) -> jax.Array:
    """exp(dt A) h, and 0 where a document starts."""
    return jnp.exp(dt[..., None, :] * A) * jnp.where(keep[:, None, None, None], h, 0)


def _at(t: jax.Array, arrays: Arrays) -> Arrays:
    return tuple(jax.lax.dynamic_index_in_dim(x, t, 1, keepdims=False) for x in arrays)


def _put(x: jax.Array, t: jax.Array, value: jax.Array) -> jax.Array:
    result: jax.Array = jax.lax.dynamic_update_index_in_dim(x, value, t, 1)
    return result
