"""The chunked scan with one decay per head on a TPU: a chunk at a time, the state in vector memory.

A program walks the chunks of a head in order. Sums of log decays within a chunk, and which tokens of it belong to one
document, are computed outside. The backward pass reads the state before each chunk, and walks them in reverse; after it
the gradient of a sum of log decays is q . dq - k . dk of its token, with what the state receives at the end of a chunk.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from kernels.blocks_tpu import ORDER, Ref
from kernels.tiles import Arrays, array, traffic, up

CHUNK = 128  # tokens
ROWS = 16


def chunked_scan_tpu(
    log_a: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array, pos: jax.Array, S: jax.Array, *, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """y [B, T, G, H, V] in the dtype of v, and the last S.

    log_a [B, T, G, H], k, q [B, T, G, H or 1, K], v [B, T, G, H, V], pos [B, T], S [B, G, H, K, V] of the token before.
    """
    batch, time, groups, heads, _ = v.shape
    size = min(CHUNK, up(time, ROWS))
    count = up(time, size) // size

    def filled(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, 0), (0, count * size - time)] + [(0, 0)] * (x.ndim - 2))

    def by_head(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(filled(x), 1, 3).reshape(batch, -1, count * size, x.shape[-1])

    more = jnp.arange(1, count * size - time + 1, dtype=pos.dtype)
    pos = jnp.concatenate([pos, pos[:, -1:] + more], 1)  # what fills up the last chunk belongs to the last document
    starts = jnp.tile(jnp.arange(size), count) - pos  # places in the chunk, below 0 if the document started before it
    total = jnp.cumsum(filled(log_a.astype(S.dtype)).reshape(batch, count, size, groups * heads), 2)
    total = total.transpose(0, 3, 1, 2).reshape(batch, groups * heads, count, 1, size)
    starts = starts.astype(jnp.int32).reshape(batch, count, 1, size)
    y, last = _run(interpret, total, *map(by_head, (k, v, q)), starts, S.reshape(batch, -1, *S.shape[3:]))
    y = jnp.moveaxis(y[:, :, :time].reshape(batch, groups, heads, time, -1), 3, 1)
    return y, last.reshape(S.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(
    interpret: bool, total: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array, starts: jax.Array, S: jax.Array
) -> Arrays:
    y, last, _ = _forward(interpret, total, k, v, q, starts, S)
    return y, last


def _save(
    interpret: bool, total: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array, starts: jax.Array, S: jax.Array
) -> tuple[Arrays, Arrays]:
    y, last, states = _forward(interpret, total, k, v, q, starts, S)
    return (y, last), (total, k, v, q, starts, states)


class _Specs:
    """Blocks of the arrays of a chunked scan, and its grid: batch, heads, chunks."""

    def __init__(self, total: jax.Array, k: jax.Array, v: jax.Array, reverse: bool = False) -> None:
        batch, heads, count, _, size = total.shape
        self.grid, shared = (batch, heads, count), heads // k.shape[1]
        key, value, last = k.shape[3], v.shape[3], count - 1
        self.flops = 2 * batch * heads * count * size * (2 * size * (key + value) + 2 * key * value)

        def at(t: jax.Array) -> jax.Array:
            return last - t if reverse else t

        def key_head(h: jax.Array) -> jax.Array:
            return jax.lax.div(h, jax.lax.full_like(h, shared))  # h // shared asks what chip it will run on

        self.key = pl.BlockSpec((1, 1, size, key), lambda b, h, t: (b, key_head(h), at(t), 0))
        self.key_out = pl.BlockSpec((1, 1, size, key), lambda b, h, t: (b, h, at(t), 0))
        self.value = pl.BlockSpec((1, 1, size, value), lambda b, h, t: (b, h, at(t), 0))
        self.total = pl.BlockSpec((1, 1, 1, 1, size), lambda b, h, t: (b, h, at(t), 0, 0))
        self.start = pl.BlockSpec((1, 1, 1, size), lambda b, h, t: (b, at(t), 0, 0))
        self.state = pl.BlockSpec((1, 1, key, value), lambda b, h, t: (b, h, 0, 0))
        self.states = pl.BlockSpec((1, 1, 1, key, value), lambda b, h, t: (b, h, at(t), 0, 0))
        self.carry = pltpu.VMEM((key, value), total.dtype)


def _forward(
    interpret: bool, total: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array, starts: jax.Array, S: jax.Array
) -> Arrays:
    """y, the last S, S before every chunk [B, heads, chunks, K, V]."""
    specs = _Specs(total, k, v)
    states = array((*total.shape[:3], *S.shape[2:]), S.dtype)
    out: Arrays = pl.pallas_call(
        _forward_kernel,
        grid=specs.grid,
        in_specs=[specs.total, specs.key, specs.value, specs.key, specs.start, specs.state],
        out_specs=[specs.value, specs.state, specs.states],
        out_shape=[array(v.shape, v.dtype), array(S.shape, S.dtype), states],
        scratch_shapes=[specs.carry],
        compiler_params=ORDER,
        cost_estimate=pl.CostEstimate(
            flops=specs.flops,
            transcendentals=total.size * total.shape[-1],
            bytes_accessed=traffic(total, k, v, v, q, starts, S, S, states),
        ),
        interpret=interpret,
        name="chunked_scan",
    )(total, k, v, q, starts, S)
    return out


def _backward(interpret: bool, saved: Arrays, gradients: Arrays) -> tuple[jax.Array | None, ...]:
    total, k, v, q, starts, states = saved
    dy, dlast = gradients
    specs = _Specs(total, k, v, reverse=True)
    key = array((*total.shape[:2], *k.shape[2:]), k.dtype)
    dtotal, dk, dv, dq, dS = pl.pallas_call(
        _backward_kernel,
        grid=specs.grid,
        in_specs=[
            *(specs.total, specs.key, specs.value, specs.key, specs.start, specs.states),
            *(specs.value, specs.state),
        ],
        out_specs=[specs.total, specs.key_out, specs.value, specs.key_out, specs.state],
        out_shape=[
            array(total.shape, total.dtype),
            key,
            array(v.shape, v.dtype),
            array(key.shape, q.dtype),
            array(dlast.shape, dlast.dtype),
        ],
        scratch_shapes=[specs.carry],
        compiler_params=ORDER,
        cost_estimate=pl.CostEstimate(
            flops=specs.flops * 5 // 2,
            transcendentals=total.size * total.shape[-1],
            bytes_accessed=traffic(total, total, k, v, v, v, q, starts, states, dlast, key, key),
        ),
        interpret=interpret,
        name="chunked_scan_gradient",
    )(total, k, v, q, starts, states, dy, dlast)
    return dtotal, _shared(dk, k), dv, _shared(dq, q), None, dS


_run.defvjp(_save, _backward)


def _shared(d: jax.Array, k: jax.Array) -> jax.Array:
    """Sums the gradients of the heads that share a key, in at least single precision."""
    batch, heads = k.shape[:2]
    return (
        d.reshape(batch, heads, -1, *k.shape[2:]).sum(2, dtype=jnp.promote_types(k.dtype, jnp.float32)).astype(k.dtype)
    )


class _Chunk:
    """Decays of a chunk: between its tokens, from the state before to each of them, from each to the state after."""

    def __init__(self, total: jax.Array, starts: jax.Array) -> None:
        size = total.shape[1]
        row = jax.lax.broadcasted_iota(jnp.int32, (size, size), 0)
        lane = jax.lax.broadcasted_iota(jnp.int32, (size, size), 1)
        after = jnp.broadcast_to(total, (size, size)).T  # of the later token
        start = jnp.broadcast_to(starts, (size, size)).T
        pairs = (lane <= row) & (lane >= start)
        self.pairs = jnp.exp(jnp.where(pairs, after - total, -jnp.inf))
        self.inward = jnp.exp(jnp.where(start < 0, after, -jnp.inf))[:, :1]
        final = total[:, size - 1 :]
        last = jnp.where(row[:, :1] >= starts[:, size - 1 :], final - after[:, :1], -jnp.inf)
        self.outward = jnp.exp(last)
        self.kept = jnp.exp(jnp.where(starts[:, size - 1 :] < 0, final, -jnp.inf))


def _forward_kernel(
    total: Ref, k: Ref, v: Ref, q: Ref, starts: Ref, S0: Ref, y: Ref, last: Ref, states: Ref, carry: Ref
) -> None:
    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        carry[...] = S0[0, 0]

    S = carry[...]
    states[0, 0, 0] = S
    chunk = _Chunk(total[0, 0, 0], starts[0, 0])
    keys, values, queries = k[0, 0], v[0, 0], q[0, 0]
    scores = _dot(queries, keys, 1, 1) * chunk.pairs
    found = _dot(scores.astype(values.dtype), values, 1, 0)
    found += chunk.inward * _dot(queries, S.astype(queries.dtype), 1, 0)
    y[0, 0] = found.astype(y.dtype)
    S = chunk.kept * S + _dot(keys, (chunk.outward * values).astype(values.dtype), 0, 0)
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

    S, dS = states[0, 0, 0], carry[...]
    chunk = _Chunk(total[0, 0, 0], starts[0, 0])
    keys, values, queries, d = k[0, 0], v[0, 0], q[0, 0], dy[0, 0]
    half = values.dtype
    scores = (_dot(queries, keys, 1, 1) * chunk.pairs).astype(half)
    dscores = (_dot(d, values, 1, 1) * chunk.pairs).astype(half)
    to_keys = chunk.outward * _dot(values, dS.astype(half), 1, 1)
    found_q = _dot(dscores, keys, 1, 0) + chunk.inward * _dot(d, S.astype(half), 1, 1)
    found_k = _dot(dscores, queries, 0, 0) + to_keys
    dq[0, 0], dk[0, 0] = found_q.astype(dq.dtype), found_k.astype(dk.dtype)
    dv[0, 0] = (_dot(scores, d, 0, 0) + chunk.outward * _dot(keys, dS.astype(half), 1, 0)).astype(dv.dtype)
    ends = jnp.sum(keys * to_keys, keepdims=True) + chunk.kept * jnp.sum(dS * S, keepdims=True)
    ones = jnp.ones((8, keys.shape[1]), S.dtype)
    here = _dot(ones, queries * found_q - keys * found_k, 1, 1, exact=True)[:1]
    place = jax.lax.broadcasted_iota(jnp.int32, here.shape, 1)
    dtotal[0, 0, 0] = here + jnp.where(place == here.shape[1] - 1, ends, 0)
    dS = chunk.kept * dS + _dot((queries * chunk.inward).astype(half), d, 0, 0)
    carry[...] = dS
    dS0[0, 0] = dS


def _dot(x: jax.Array, y: jax.Array, i: int, j: int, exact: bool = False) -> jax.Array:
    """The product of matrices over axis i of x and j of y, summed in at least single precision."""
    precision = jax.lax.Precision.HIGHEST if exact or x.dtype != jnp.bfloat16 else None
    acc = jnp.promote_types(x.dtype, jnp.float32)
    return jax.lax.dot_general(x, y, (((i,), (j,)), ((), ())), precision=precision, preferred_element_type=acc)
