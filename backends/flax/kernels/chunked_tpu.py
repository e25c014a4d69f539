"""The chunked scan with one decay per head on a TPU.

Sums of log decays within a chunk, and which tokens of it belong to one document, are computed outside. The gradient of
such a sum is q . dq - k . dk of its token, with what the state receives at the end of a chunk.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from kernels.blocks_tpu import Ref
from kernels.chunk import Decays, dot, step, step_back
from kernels.chunks_tpu import Kernels, filled, over_chunks
from kernels.tiles import up

CHUNK = 128  # tokens
ROWS = 16


def chunked_scan_tpu(
    log_a: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array, pos: jax.Array, S: jax.Array, *, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """y [B, T, G, H, V] in the dtype of v, and the last S.

    log_a [B, T, G, H], k, q [B, T, G, H or 1, K], v [B, T, G, H, V], pos [B, T], S [B, G, H, K, V] of the token before.
    """
    batch, size = log_a.shape[0], min(CHUNK, up(log_a.shape[1], ROWS))
    total = filled(log_a.astype(S.dtype), size).reshape(batch, -1, size, S.shape[1] * S.shape[2])
    total = jnp.cumsum(total, 2).transpose(0, 3, 1, 2)[:, :, :, None]
    return over_chunks(KERNELS, interpret, size, total, k, v, q, pos, S)


def _decays(total: jax.Array, starts: jax.Array) -> Decays:
    """Of sums of log decays [1, Q] since the start of a chunk, with the places [1, Q] where documents start."""
    size = total.shape[1]
    row = jax.lax.broadcasted_iota(jnp.int32, (size, size), 0)
    lane = jax.lax.broadcasted_iota(jnp.int32, (size, size), 1)
    after = jnp.broadcast_to(total, (size, size)).T  # of the later token
    start = jnp.broadcast_to(starts, (size, size)).T
    final, last_start = total[:, size - 1 :], starts[:, size - 1 :]
    return Decays(
        pairs=jnp.exp(jnp.where((lane <= row) & (lane >= start), after - total, -jnp.inf)),
        inward=jnp.exp(jnp.where(start < 0, after, -jnp.inf))[:, :1],
        outward=jnp.exp(jnp.where(row[:, :1] >= last_start, final - after[:, :1], -jnp.inf)),
        kept=jnp.exp(jnp.where(last_start < 0, final, -jnp.inf)),
    )


def _forward_kernel(
    total: Ref, k: Ref, v: Ref, q: Ref, starts: Ref, S0: Ref, y: Ref, last: Ref, states: Ref, carry: Ref
) -> None:
    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        carry[...] = S0[0, 0]

    S = carry[...]
    states[0, 0, 0] = S
    found, S = step(_decays(total[0, 0, 0], starts[0, 0]), S, k[0, 0], v[0, 0], q[0, 0])
    y[0, 0] = found.astype(y.dtype)
    carry[...] = S
    last[0, 0] = S


def _backward_kernel(
    total: Ref,
    k: Ref,
    v: Ref,
    q: Ref,
    starts: Ref,
    states: Ref,
    dy: Ref,
    dlast: Ref,
    dtotal: Ref,
    dk: Ref,
    dv: Ref,
    dq: Ref,
    dS0: Ref,
    carry: Ref,
) -> None:
    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        carry[...] = dlast[0, 0]

    c = _decays(total[0, 0, 0], starts[0, 0])
    found = step_back(c, states[0, 0, 0], carry[...], k[0, 0], v[0, 0], q[0, 0], dy[0, 0])
    dk[0, 0], dv[0, 0], dq[0, 0] = found.k.astype(dk.dtype), found.v.astype(dv.dtype), found.q.astype(dq.dtype)
    ones = jnp.ones((8, found.flow.shape[1]), found.flow.dtype)
    here = dot(ones, found.flow, 1, 1, exact=True)[:1]  # tokens along lanes
    place = jax.lax.broadcasted_iota(jnp.int32, here.shape, 1)
    dtotal[0, 0, 0] = here + jnp.where(place == here.shape[1] - 1, found.end, 0)
    carry[...] = found.S
    dS0[0, 0] = found.S


KERNELS = Kernels(
    name="chunked_scan",
    forward=_forward_kernel,
    backward=_backward_kernel,
    products=lambda Q, K, V: (Q * (Q * (K + V) + 2 * K * V), Q * (Q * (3 * K + 2 * V) + 4 * K * V)),
    exponentials=lambda Q, K: Q * (Q + 2),
)
