"""Linear recurrences with a matrix state, in chunks: matrix products inside a chunk, states only between chunks.

The decay is one number per head (`chunked_scan`: Mamba-2, RetNet; Dao and Gu 2024, arXiv:2405.21060, section 6) or one
per key (`chunked_key_scan`: gated linear attention, RWKV-6, HGRN-2; Yang et al. 2023, arXiv:2312.06635, section 4).
Only the state before each chunk is kept for the backward pass, which computes every chunk again.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from kernels.blocks_gpu import machine_of
from kernels.chunk_gates import given
from kernels.chunk_kernels import fused, kernel_on, state_before
from kernels.chunk_sizes import LOWEST, SPAN, chunk_length, key_chunk_length
from kernels.tiles import Arrays, Gates, Machine, accumulator, machine, with_numbers

Part = Callable[..., tuple[jax.Array, jax.Array]]
Scan = Callable[..., tuple[jax.Array, jax.Array | None]]


def chunked_scan(
    log_a: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q: jax.Array,
    pos: jax.Array,
    state: jax.Array | None = None,
    *,
    before: bool = False,
    impl: Machine | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """S[t] = exp(log_a[t]) S[t-1] + k[t] v[t]^T and y[t] = q[t] . S[t], from S = 0 where a document starts.

    log_a [B, T, G, H], or what broadcasts to it, at most 0; k, q [B, T, G, H or 1, K]; v [B, T, G, H, V]; pos [T] or
    [B, T]; state [B, G, H, K, V], S of the token before. before: the state is read before
    the update, y[t] = q[t] . S[t-1]. Computes in at least single precision; returns
    y [B, T, G, H, V] in the dtype of v and the last S unrounded (None without a state). impl, interpret: for tests,
    the kernel of another machine.
    """
    kernel = kernel_on(machine(impl, v.shape[1]), k.shape[-1])

    def run(
        log_a: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array, pos: jax.Array, state: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        if kernel is None:
            return _over_chunks(_chunk, log_a, k, v, q, pos, state)
        x = v, log_a[..., None]
        return fused(kernel, given(per_key=False), x, (), (k, q), k.shape[-1], pos, state, interpret=interpret)

    scan = functools.partial(_over_chunks_before, run) if before else run
    return scan(jnp.broadcast_to(log_a, v.shape[:-1]), k, v, q, pos, state)


def gated_chunked_scan(
    gates: Gates,
    x: Arrays,
    w: Arrays,
    k: jax.Array,
    q: jax.Array,
    pos: jax.Array,
    state: jax.Array | None = None,
    *,
    numbers: tuple[float, ...] = (),
    impl: Machine | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """`chunked_scan` of `log_a, v = gates(x, w)` and what the gates make of its y: in its kernel, or array code around.

    x: arrays [B, T, G, H, V], w: arrays [G, H, V], or what broadcasts to them; numbers: those that the gates take
    behind w. Returns out(y, x, w), or y, in the dtype of x[0]. The rest is as for `chunked_scan`.
    """
    gates = with_numbers(gates, numbers)
    shape = jnp.broadcast_shapes(*(z.shape for z in x))
    kernel = kernel_on(machine_of(gates, x, w, impl), k.shape[-1])
    if kernel is not None:
        return fused(kernel, gates, x, w, (k, q), k.shape[-1], pos, state, interpret=interpret)
    acc = accumulator(*x, *w)
    exact = tuple(z.astype(acc) for z in x), tuple(z.astype(acc) for z in w)
    log_a, v = gates.gates(*exact, (pos == 0).reshape(-1, shape[1], 1, 1, 1))
    decays = jnp.broadcast_to(log_a, (*shape[:-1], 1))[..., 0]
    y, last = _over_chunks(_chunk, decays, k, jnp.broadcast_to(v, shape), q, pos, state)
    return (y if gates.out is None else gates.out(y, *exact)).astype(x[0].dtype), last


def chunked_key_scan(
    log_a: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q: jax.Array,
    pos: jax.Array,
    state: jax.Array | None = None,
    *,
    before: bool = False,
    impl: Machine | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """S[t] = diag(exp(log_a[t])) S[t-1] + k[t] v[t]^T and y[t] = q[t] . S[t]: the same with one decay per key.

    log_a [B, T, G, H, K], or what broadcasts to it.
    """
    log_a = jnp.broadcast_to(log_a, (*v.shape[:-1], k.shape[-1]))
    kernel = kernel_on(machine(impl, v.shape[1]), k.shape[-1])
    if kernel is not None:
        gates, x = given(per_key=True, before=before), (v, log_a, k, q)
        return fused(kernel, gates, x, (), (), k.shape[-1], pos, state, interpret=interpret)
    scan = functools.partial(_over_chunks, _key_chunk)
    run = functools.partial(_over_chunks_before, scan) if before else scan
    return run(log_a, k, v, q, pos, state)


def _over_chunks_before(
    scan: Scan,
    log_a: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q: jax.Array,
    pos: jax.Array,
    state: jax.Array | None,
) -> tuple[jax.Array, jax.Array | None]:
    """R[t] = S[t-1] is a scan of the same form, whose decay, keys and values are those of the token before."""
    starts = jnp.broadcast_to(pos == 0, v.shape[:2])

    def late(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (1, 0)] + [(0, 0)] * (x.ndim - 2))[:, :-1]
        return jnp.where(starts.reshape(starts.shape + (1,) * (x.ndim - 2)), 0, x)

    y, S = scan(late(log_a), late(k), late(v), q, pos, state)
    if S is None:
        return y, None
    decay = jnp.exp(log_a[:, -1].astype(S.dtype)).reshape(*S.shape[:3], -1, 1)
    return y, decay * S + k[:, -1, ..., None].astype(S.dtype) * v[:, -1, ..., None, :].astype(S.dtype)


def _over_chunks(
    part: Part,
    log_a: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q: jax.Array,
    pos: jax.Array,
    state: jax.Array | None,
) -> tuple[jax.Array, jax.Array | None]:
    """Runs `part` over chunks of equal length; what fills up the last chunk decays by nothing and adds nothing."""
    S = state_before((k.shape[-1], v.shape[-1]), v.shape, accumulator(log_a, k, v, q), pos, state)
    log_a, k, v, q, dtype = (*(x.astype(S.dtype) for x in (jnp.maximum(log_a, LOWEST), k, v, q)), v.dtype)
    pos = jnp.broadcast_to(pos, v.shape[:2])
    time = v.shape[1]
    keyed = log_a.ndim == k.ndim
    size = key_chunk_length(time, v.shape[-1]) if keyed else chunk_length(time, k.shape[-1], v.shape[-1])
    count = -(-time // size)
    more = count * size - time
    pos = jnp.concatenate([pos, pos[:, -1:] + 1 + jnp.arange(more)], 1)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, count * size - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)

    S, y = jax.lax.scan(lambda S, chunk: jax.checkpoint(part)(S, *chunk), S, tuple(map(cut, (log_a, k, v, q, pos))))
    y = jnp.moveaxis(y, 0, 1).reshape(v.shape[0], -1, *v.shape[2:])[:, :time].astype(dtype)
    return y, None if state is None else S


def _together(pos: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Who belongs to whom in a chunk at pos [B, Q], in the order of time.

    Pairs of tokens [B, 1, 1, Q, Q] (a token and an earlier one or itself), tokens with the state before the chunk
    [B, 1, 1, Q], tokens with the state after it.
    """
    place = jnp.arange(pos.shape[1])
    distance = place[:, None] - place
    pairs = (distance >= 0) & (distance <= pos[:, :, None])
    before, after = pos > place, place[-1] - place <= pos[:, -1:]
    return pairs[:, None, None], before[:, None, None], after[:, None, None]


def _chunk(
    S: jax.Array, log_a: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array, pos: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The state [B, G, H, K, V] after Q tokens, and their y [B, Q, G, H, V]."""
    k, q, v = (jnp.moveaxis(x, 1, 3) for x in (k, q, v))  # [B, G, H or 1, Q, K], [B, G, H, Q, V]
    total = jnp.cumsum(jnp.moveaxis(log_a, 1, 3), -1)  # [B, G, H, Q]
    pairs, before, after = _together(pos)

    decay = jnp.exp(jnp.where(pairs, total[..., :, None] - total[..., None, :], -jnp.inf))
    y = (q @ k.swapaxes(-1, -2) * decay) @ v
    y = y + jnp.exp(jnp.where(before, total, -jnp.inf))[..., None] * (q @ S)
    left = jnp.exp(jnp.where(after, total[..., -1:] - total, -jnp.inf))
    kept = jnp.exp(jnp.where(before[..., -1:], total[..., -1:], -jnp.inf))
    S = kept[..., None] * S + k.swapaxes(-1, -2) @ (left[..., None] * v)
    return S, jnp.moveaxis(y, 3, 1)


def _key_chunk(
    S: jax.Array, log_a: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array, pos: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The same with a decay per key."""
    k, q, v = (jnp.moveaxis(x, 1, 3) for x in (k, q, v))
    total = jnp.cumsum(jnp.moveaxis(log_a, 1, 3), -2)  # [B, G, H, Q, K]
    pairs, before, after = _together(pos)

    y = jnp.where(pairs, _key_scores(total, k, q), 0) @ v
    y = y + (q * jnp.exp(jnp.where(before[..., None], total, -jnp.inf))) @ S
    left = jnp.exp(jnp.where(after[..., None], total[..., -1:, :] - total, -jnp.inf))
    kept = jnp.exp(jnp.where(before[..., -1:], total[..., -1, :], -jnp.inf))
    S = kept[..., None] * S + (k * left).swapaxes(-1, -2) @ v
    return S, jnp.moveaxis(y, 3, 1)


def _key_scores(total: jax.Array, k: jax.Array, q: jax.Array) -> jax.Array:
    """The sums over keys of q[i] exp(total[i] - total[j]) k[j] for j not after i: [B, G, H, Q, Q], else zero.

    Between spans the exponential is split at the start of the span of i, so that no factor exceeds one whatever the
    decay; within a span it is taken pair by pair.
    """
    size = total.shape[-2]
    span = min(SPAN, size)

    def spans(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-2], size // span, span, x.shape[-1])

    place = jnp.arange(size)
    starts = jnp.pad(spans(total)[..., :-1, -1, :], [(0, 0)] * (total.ndim - 2) + [(1, 0), (0, 0)])  # before each span
    earlier = place < place[::span, None]
    back = jnp.where(earlier[..., None], starts[..., None, :] - total[..., None, :, :], -jnp.inf)
    queries = spans(q) * jnp.exp(spans(total) - starts[..., None, :])
    between = queries @ (k[..., None, :, :] * jnp.exp(back)).swapaxes(-1, -2)  # [B, G, H, spans, span, Q]

    ordered = place[:span, None] >= place[:span]
    apart = spans(total)[..., :, None, :] - spans(total)[..., None, :, :]
    apart = jnp.exp(jnp.where(ordered[..., None], apart, -jnp.inf))
    within = jnp.sum(spans(q)[..., :, None, :] * spans(k)[..., None, :, :] * apart, -1)  # [B, G, H, spans, span, span]
    same = jnp.eye(size // span, dtype=bool)[:, None, :, None]
    within = jnp.where(same, within[..., None, :], 0).reshape(between.shape)  # as a product XLA 0.10 crashes on a CPU
    return (between + within).reshape(*total.shape[:-1], size)
