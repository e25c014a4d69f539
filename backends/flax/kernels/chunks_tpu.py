"""Chunked scans on a TPU: their arrays by head and chunk, and the calls of the kernels that compute a chunk.

A program walks the chunks of a head in order, with the state in vector memory. The forward pass writes the state before
each chunk for the backward pass, which walks the chunks in reverse.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from kernels.blocks_tpu import ORDER, Ref
from kernels.chunk import Documents, Rule, document_starts, filled, of_sharers
from kernels.tiles import Arrays, array, traffic


def over_chunks(
    rule: Rule,
    interpret: bool,
    size: int,
    decays: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q: jax.Array,
    pos: jax.Array,
    S: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """y [B, T, G, H, V] in the dtype of v, and the last S, in chunks of `size` tokens.

    decays [B, G H, chunks, *axes]: whatever the rule makes of them; k, q [B, T, G, H or 1, K], v [B, T, G, H, V],
    pos [B, T], S [B, G, H, K, V] of the token before.
    """
    batch, time, groups, heads, _ = v.shape
    count = decays.shape[2]

    def by_head(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(filled(x, size), 1, 3).reshape(batch, -1, count * size, x.shape[-1])

    starts = document_starts(pos, size).reshape(batch, count, 1, size)
    y, last = _run(rule, interpret, decays, *map(by_head, (k, v, q)), starts, S.reshape(batch, -1, *S.shape[3:]))
    y = jnp.moveaxis(y[:, :, :time].reshape(batch, groups, heads, time, -1), 3, 1)
    return y, last.reshape(S.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(
    rule: Rule,
    interpret: bool,
    decays: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q: jax.Array,
    starts: jax.Array,
    S: jax.Array,
) -> Arrays:
    y, last, _ = _forward(rule, interpret, decays, k, v, q, starts, S)
    return y, last


def _save(
    rule: Rule,
    interpret: bool,
    decays: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q: jax.Array,
    starts: jax.Array,
    S: jax.Array,
) -> tuple[Arrays, Arrays]:
    y, last, states = _forward(rule, interpret, decays, k, v, q, starts, S)
    return (y, last), (decays, k, v, q, starts, states)


class _Specs:
    """Blocks of the arrays of a chunked scan, and its grid: batch, heads, chunks."""

    def __init__(
        self, rule: Rule, decays: jax.Array, k: jax.Array, v: jax.Array, starts: jax.Array, reverse: bool = False
    ) -> None:
        (batch, heads, count, *axes), size = decays.shape, starts.shape[3]
        self.grid, shared = (batch, heads, count), heads // k.shape[1]
        key, value, last = k.shape[3], v.shape[3], count - 1
        self._chunks, self._exponentials = batch * heads * count, rule.exponentials(size, key)
        self._products = rule.products(size, key, value)[reverse]

        def at(t: jax.Array) -> jax.Array:
            return last - t if reverse else t

        def key_head(h: jax.Array) -> jax.Array:
            return jax.lax.div(h, jax.lax.full_like(h, shared))  # h // shared asks what chip it will run on

        self.decay = pl.BlockSpec((1, 1, 1, *axes), lambda b, h, t: (b, h, at(t), *(0 for _ in axes)))
        self.key = pl.BlockSpec((1, 1, size, key), lambda b, h, t: (b, key_head(h), at(t), 0))
        self.key_out = pl.BlockSpec((1, 1, size, key), lambda b, h, t: (b, h, at(t), 0))
        self.value = pl.BlockSpec((1, 1, size, value), lambda b, h, t: (b, h, at(t), 0))
        self.start = pl.BlockSpec((1, 1, 1, size), lambda b, h, t: (b, at(t), 0, 0))
        self.state = pl.BlockSpec((1, 1, key, value), lambda b, h, t: (b, h, 0, 0))
        self.states = pl.BlockSpec((1, 1, 1, key, value), lambda b, h, t: (b, h, at(t), 0, 0))
        self.carry = pltpu.VMEM((key, value), decays.dtype)

    def cost(self, moved: int) -> pl.CostEstimate:
        """That of all chunks, with the bytes read and written."""
        return pl.CostEstimate(
            flops=2 * self._products * self._chunks,
            transcendentals=self._exponentials * self._chunks,
            bytes_accessed=moved,
        )


def _forward(
    rule: Rule,
    interpret: bool,
    decays: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q: jax.Array,
    starts: jax.Array,
    S: jax.Array,
) -> Arrays:
    """y, the last S, S before every chunk [B, heads, chunks, K, V]."""
    specs = _Specs(rule, decays, k, v, starts)
    states = array((*decays.shape[:3], *S.shape[2:]), S.dtype)
    out: Arrays = pl.pallas_call(
        functools.partial(_forward_kernel, rule),
        grid=specs.grid,
        in_specs=[specs.decay, specs.key, specs.value, specs.key, specs.start, specs.state],
        out_specs=[specs.value, specs.state, specs.states],
        out_shape=[array(v.shape, v.dtype), array(S.shape, S.dtype), states],
        scratch_shapes=[specs.carry],
        compiler_params=ORDER,
        cost_estimate=specs.cost(traffic(decays, k, v, v, q, starts, S, S, states)),
        interpret=interpret,
        name=rule.name,
    )(decays, k, v, q, starts, S)
    return out


def _backward(rule: Rule, interpret: bool, saved: Arrays, gradients: Arrays) -> tuple[jax.Array | None, ...]:
    decays, k, v, q, starts, states = saved
    dy, dlast = gradients
    specs = _Specs(rule, decays, k, v, starts, reverse=True)
    key = array((*decays.shape[:2], *k.shape[2:]), k.dtype)
    ddecays, dk, dv, dq, dS = pl.pallas_call(
        functools.partial(_backward_kernel, rule),
        grid=specs.grid,
        in_specs=[
            *(specs.decay, specs.key, specs.value, specs.key, specs.start, specs.states),
            *(specs.value, specs.state),
        ],
        out_specs=[specs.decay, specs.key_out, specs.value, specs.key_out, specs.state],
        out_shape=[
            array(decays.shape, decays.dtype),
            key,
            array(v.shape, v.dtype),
            array(key.shape, q.dtype),
            array(dlast.shape, dlast.dtype),
        ],
        scratch_shapes=[specs.carry],
        compiler_params=ORDER,
        cost_estimate=specs.cost(traffic(decays, decays, k, v, v, v, q, starts, states, dlast, key, key)),
        interpret=interpret,
        name=f"{rule.name}_gradient",
    )(decays, k, v, q, starts, states, dy, dlast)
    return ddecays, of_sharers(dk, k, 1), dv, of_sharers(dq, q, 1), None, dS


_run.defvjp(_save, _backward)


def _documents(starts: jax.Array) -> Documents:
    """From the places [1, Q] where the documents of tokens start."""
    size = starts.shape[1]
    row = jax.lax.broadcasted_iota(jnp.int32, (size, size), 0)
    lane = jax.lax.broadcasted_iota(jnp.int32, (size, size), 1)
    start, last = jnp.broadcast_to(starts, (size, size)).T, starts[:, size - 1 :]
    return Documents((lane <= row) & (lane >= start), start[:, :1] < 0, row[:, :1] >= last, last < 0)


def _forward_kernel(
    rule: Rule,
    decays: Ref,
    k: Ref,
    v: Ref,
    q: Ref,
    starts: Ref,
    S0: Ref,
    y: Ref,
    last: Ref,
    states: Ref,
    carry: Ref,
) -> None:
    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        carry[...] = S0[0, 0]

    S = carry[...]
    states[0, 0, 0] = S
    found, S = rule.forward(decays[0, 0, 0], _documents(starts[0, 0]), S, k[0, 0], v[0, 0], q[0, 0])
    y[0, 0] = found.astype(y.dtype)
    carry[...] = S
    last[0, 0] = S


def _backward_kernel(
    rule: Rule,
    decays: Ref,
    k: Ref,
    v: Ref,
    q: Ref,
    starts: Ref,
    states: Ref,
    dy: Ref,
    dlast: Ref,
    ddecays: Ref,
    dk: Ref,
    dv: Ref,
    dq: Ref,
    dS0: Ref,
    carry: Ref,
) -> None:
    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        carry[...] = dlast[0, 0]

    documents = _documents(starts[0, 0])
    found = rule.backward(decays[0, 0, 0], documents, states[0, 0, 0], carry[...], k[0, 0], v[0, 0], q[0, 0], dy[0, 0])
    dk[0, 0], dv[0, 0], dq[0, 0] = found.k.astype(dk.dtype), found.v.astype(dv.dtype), found.q.astype(dq.dtype)
    ddecays[0, 0, 0] = found.decays
    carry[...] = found.S
    dS0[0, 0] = found.S
