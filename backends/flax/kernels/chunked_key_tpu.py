"""The chunked scan with one decay per key on a TPU (Yang et al. 2023, arXiv:2312.06635, section 4).

Decays between tokens are split at the borders of halves (`halves`), a product of matrices a level.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from kernels.blocks_tpu import LANES, Ref
from kernels.chunk import dot
from kernels.chunks_tpu import Kernels, filled, over_chunks
from kernels.halves import Sums, apart, right, sums, sums_back

CHUNK = 128  # tokens, a power of two
ROWS = 16


def chunked_key_scan_tpu(
    log_a: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array, pos: jax.Array, S: jax.Array, *, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """As `chunked_scan_tpu`, with log_a [B, T, G, H, K]."""
    batch, size = log_a.shape[0], min(CHUNK, max(ROWS, 1 << (log_a.shape[1] - 1).bit_length()))
    logs = filled(log_a.astype(S.dtype), size).reshape(batch, -1, size, S.shape[1] * S.shape[2], log_a.shape[-1])
    return over_chunks(KERNELS, interpret, size, logs.transpose(0, 3, 1, 2, 4), k, v, q, pos, S)


class _Chunk(NamedTuple):
    """Decays [Q, K] of a chunk: of each level, from the state before to a token, from it to the state after.

    kept [1, K] is that of the state; `seen` [Q, Q] says which pairs are in order and of one document.
    """

    levels: tuple[jax.Array, ...]
    inward: jax.Array
    outward: jax.Array
    kept: jax.Array
    seen: jax.Array


def _chunk(logs: jax.Array, starts: jax.Array) -> _Chunk:
    size = logs.shape[0]
    found = sums(logs, _swap)
    row = jax.lax.broadcasted_iota(jnp.int32, (size, size), 0)
    lane = jax.lax.broadcasted_iota(jnp.int32, (size, size), 1)
    start, last_start = jnp.broadcast_to(starts, (size, size)).T, starts[:, size - 1 :]
    return _Chunk(
        levels=tuple(map(jnp.exp, found.levels)),
        inward=jnp.where(start[:, :1] < 0, jnp.exp(found.until), 0),
        outward=jnp.where(row[:, :1] >= last_start, jnp.exp(found.after), 0),
        kept=jnp.where(last_start < 0, jnp.exp(found.whole[:1]), 0),
        seen=(lane < row) & (lane >= start),
    )


def _swap(x: jax.Array, half: int) -> jax.Array:
    size = x.shape[0]
    return jnp.where(right(x.shape, half), pltpu.roll(x, half, 0), pltpu.roll(x, size - half, 0))


def _decayed(kept: jax.Array, S: jax.Array) -> jax.Array:
    """A state [K, V] after decays [1, K]."""
    return jnp.broadcast_to(kept, (LANES, kept.shape[1])).T[:, :1] * S


def _scores(c: _Chunk, k: jax.Array, q: jax.Array, half: jnp.dtype) -> jax.Array:
    """The sums over keys of q[i] k[j] and the decay between them [Q, Q]; zero where i does not see j."""
    size = k.shape[0]
    found = jnp.where(_same(size), jnp.sum(q * k, 1, keepdims=True), 0)
    for level, decay in enumerate(c.levels):
        between = dot((q * decay).astype(half), (k * decay).astype(half), 1, 1)
        found = jnp.where(c.seen & apart(size, level), between, found)
    return found


def _scores_back(
    c: _Chunk, k: jax.Array, q: jax.Array, dscores: jax.Array, half: jnp.dtype
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]:
    """The gradients of keys, queries, and the sums of log decays of each level."""
    size, d_levels = k.shape[0], []
    itself = jnp.sum(jnp.where(_same(size), dscores, 0), 1, keepdims=True)
    dk, dq = itself * q, itself * k
    for level, decay in enumerate(c.levels):
        d = jnp.where(c.seen & apart(size, level), dscores, 0).astype(half)
        queries, keys = (q * decay).astype(half), (k * decay).astype(half)
        d_queries, d_keys = dot(d, keys, 1, 0), dot(d, queries, 0, 0)
        dq, dk = dq + d_queries * decay, dk + d_keys * decay
        d_levels.append(queries * d_queries + keys * d_keys)  # a token is one or the other
    return dk, dq, tuple(d_levels)


def _same(size: int) -> jax.Array:
    row = jax.lax.broadcasted_iota(jnp.int32, (size, size), 0)
    return row == jax.lax.broadcasted_iota(jnp.int32, (size, size), 1)


def _forward_kernel(
    logs: Ref, k: Ref, v: Ref, q: Ref, starts: Ref, S0: Ref, y: Ref, last: Ref, states: Ref, carry: Ref
) -> None:
    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        carry[...] = S0[0, 0]

    S = carry[...]
    states[0, 0, 0] = S
    c, values, half = _chunk(logs[0, 0, 0], starts[0, 0]), v[0, 0], v.dtype
    keys, queries = k[0, 0].astype(S.dtype), q[0, 0].astype(S.dtype)
    found = dot(_scores(c, keys, queries, half).astype(half), values, 1, 0)
    found += dot((queries * c.inward).astype(half), S.astype(half), 1, 0)
    y[0, 0] = found.astype(y.dtype)
    S = _decayed(c.kept, S) + dot((keys * c.outward).astype(half), values, 0, 0)
    carry[...] = S
    last[0, 0] = S


def _backward_kernel(
    logs: Ref,
    k: Ref,
    v: Ref,
    q: Ref,
    starts: Ref,
    states: Ref,
    dy: Ref,
    dlast: Ref,
    dlogs: Ref,
    dk: Ref,
    dv: Ref,
    dq: Ref,
    dS0: Ref,
    carry: Ref,
) -> None:
    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        carry[...] = dlast[0, 0]

    S, dS = states[0, 0, 0], carry[...]
    c, values, d, half = _chunk(logs[0, 0, 0], starts[0, 0]), v[0, 0], dy[0, 0], v.dtype
    keys, queries = k[0, 0].astype(S.dtype), q[0, 0].astype(S.dtype)
    found_k, found_q, d_levels = _scores_back(c, keys, queries, dot(d, values, 1, 1), half)
    entering, leaving = queries * c.inward, keys * c.outward
    from_state, to_state = dot(d, S.astype(half), 1, 1), dot(values, dS.astype(half), 1, 1)
    dq[0, 0] = (found_q + c.inward * from_state).astype(dq.dtype)
    dk[0, 0] = (found_k + c.outward * to_state).astype(dk.dtype)
    found_v = dot(_scores(c, keys, queries, half).astype(half), d, 0, 0)
    dv[0, 0] = (found_v + dot(leaving.astype(half), dS.astype(half), 1, 0)).astype(dv.dtype)
    turned = dot(jnp.ones((8, S.shape[1]), S.dtype), dS * S, 1, 1, exact=True)[:1]  # keys along lanes
    first = jax.lax.broadcasted_iota(jnp.int32, keys.shape, 0) == 0
    whole = jnp.where(first, c.kept * turned, 0)
    dlogs[0, 0, 0] = sums_back(Sums(d_levels, entering * from_state, leaving * to_state, whole), _swap)
    dS = _decayed(c.kept, dS) + dot(entering.astype(half), d, 0, 0)
    carry[...] = dS
    dS0[0, 0] = dS


def _products(Q: int, K: int, V: int) -> tuple[int, int]:
    levels = Q.bit_length() - 1
    return Q * (Q * (levels * K + V) + 2 * K * V), Q * (Q * (3 * levels * K + 2 * V) + 4 * K * V)


KERNELS = Kernels(
    name="chunked_key_scan",
    forward=_forward_kernel,
    backward=_backward_kernel,
    products=_products,
    exponentials=lambda Q, K: Q * K * (Q.bit_length() + 1),
)
