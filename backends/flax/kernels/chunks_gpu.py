"""Chunked scans on a GPU, through Pallas and Triton: the calls of the kernels that walk the chunks of a head.

A program has a slice of the values of a head and its state [K, slice] in registers. The forward pass writes the state
before each chunk for the backward pass, which walks the chunks in reverse; gradients of keys, queries and decays are
sums over slices.
"""

import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from kernels.blocks_gpu import power
from kernels.chunk import Rule, document_starts, of_sharers
from kernels.chunks_walk_gpu import Sizes, backward, forward
from kernels.tiles import Arrays, array, traffic, up

SLICE = 64  # values of a program, half as many if there are many keys
LEAST = 16  # rows and columns of a product
MOST = 256  # keys
WIDE = 64  # keys, more than which take more warps


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

    decays [B, G H, T filled up, *axes]: one number, or one for each key; k, q [B, T, G, H or 1, K], v [B, T, G, H, V],
    pos [B, T], S [B, G, H, K, V] of the token before. There are at most MOST keys.
    """
    k, v_, q = (x.reshape(*x.shape[:2], -1, x.shape[-1]) for x in (k, v, q))
    S_ = S.reshape(S.shape[0], -1, *S.shape[3:])
    y, last = _run(rule, interpret, size, decays, k, v_, q, document_starts(pos, size), S_)
    return y.reshape(v.shape), last.reshape(S.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _run(
    rule: Rule,
    interpret: bool,
    size: int,
    decays: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q: jax.Array,
    starts: jax.Array,
    S: jax.Array,
) -> Arrays:
    y, last, _ = _forward(rule, interpret, size, decays, k, v, q, starts, S)
    return y, last


def _save(
    rule: Rule,
    interpret: bool,
    size: int,
    decays: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q: jax.Array,
    starts: jax.Array,
    S: jax.Array,
) -> tuple[Arrays, Arrays]:
    y, last, states = _forward(rule, interpret, size, decays, k, v, q, starts, S)
    return (y, last), (decays, k, v, q, starts, states)


class _Specs:
    """What a program sees of the arrays of a chunked scan: all of a head. The grid is batch, heads, slices."""

    def __init__(self, rule: Rule, size: int, decays: jax.Array, k: jax.Array, v: jax.Array, reverse: bool) -> None:
        (batch, heads, filled, *axes), time, key, value = decays.shape, v.shape[1], k.shape[3], v.shape[3]
        lanes = SLICE if key <= WIDE else SLICE // 2
        self.sizes = Sizes(time, key, value, size, power(key, LEAST), power(min(value, lanes), LEAST))
        self.slices, count = up(value, self.sizes.lanes) // self.sizes.lanes, filled // size
        self.grid, self.count = (batch, heads, self.slices), count
        products = rule.products(size, self.sizes.rows, self.sizes.lanes)[reverse]
        self._work = batch * heads * self.slices * count, products, rule.exponentials(size, self.sizes.rows)

        def key_head(h: jax.Array) -> jax.Array:
            return jax.lax.div(h, jax.lax.full_like(h, heads // k.shape[2]))

        self.decay = pl.BlockSpec((None, None, filled, *axes), lambda b, h, s: (b, h, 0, *(0 for _ in axes)))
        self.decay_out = pl.BlockSpec(
            (None, None, None, filled, *axes), lambda b, h, s: (s, b, h, 0, *(0 for _ in axes))
        )
        self.key = pl.BlockSpec((None, time, None, key), lambda b, h, s: (b, 0, key_head(h), 0))
        self.key_out = pl.BlockSpec((None, None, time, None, key), lambda b, h, s: (s, b, 0, h, 0))
        self.value = pl.BlockSpec((None, time, None, value), lambda b, h, s: (b, 0, h, 0))
        self.start = pl.BlockSpec((None, filled), lambda b, h, s: (b, 0))
        self.state = pl.BlockSpec((None, None, key, value), lambda b, h, s: (b, h, 0, 0))
        self.states = pl.BlockSpec((None, None, count, key, value), lambda b, h, s: (b, h, 0, 0, 0))
        self.warps = plgpu.CompilerParams(num_warps=4 if self.sizes.rows <= WIDE else 8, num_stages=1)

    def cost(self, moved: int) -> pl.CostEstimate:
        """That of all chunks, with the bytes read and written."""
        chunks, products, exponentials = self._work
        return pl.CostEstimate(flops=2 * products * chunks, transcendentals=exponentials * chunks, bytes_accessed=moved)


def _forward(
    rule: Rule,
    interpret: bool,
    size: int,
    decays: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q: jax.Array,
    starts: jax.Array,
    S: jax.Array,
) -> Arrays:
    """y, the last S, S before every chunk [B, heads, chunks, K, V]."""
    specs = _Specs(rule, size, decays, k, v, reverse=False)
    states = array((*S.shape[:2], specs.count, *S.shape[2:]), S.dtype)
    out: Arrays = pl.pallas_call(
        functools.partial(forward, rule, specs.sizes),
        grid=specs.grid,
        in_specs=[specs.decay, specs.key, specs.value, specs.key, specs.start, specs.state],
        out_specs=[specs.value, specs.state, specs.states],
        out_shape=[array(v.shape, v.dtype), array(S.shape, S.dtype), states],
        compiler_params=specs.warps,
        cost_estimate=specs.cost(traffic(decays, k, v, v, q, starts, S, S, states)),
        interpret=interpret,
        name=rule.name,
    )(decays, k, v, q, starts, S)
    return out


def _backward(rule: Rule, interpret: bool, size: int, saved: Arrays, gradients: Arrays) -> tuple[jax.Array | None, ...]:
    decays, k, v, q, starts, states = saved
    dy, dlast = gradients
    specs = _Specs(rule, size, decays, k, v, reverse=True)
    heads = (*v.shape[:3], k.shape[3])
    shares = [array((specs.slices, *heads), x.dtype if specs.slices == 1 else states.dtype) for x in (k, q)]
    d_decays = array((specs.slices, *decays.shape), decays.dtype)
    ddecays, dk, dv, dq, dS = pl.pallas_call(
        functools.partial(backward, rule, specs.sizes),
        grid=specs.grid,
        in_specs=[
            *(specs.decay, specs.key, specs.value, specs.key, specs.start, specs.states),
            *(specs.value, specs.state),
        ],
        out_specs=[specs.decay_out, specs.key_out, specs.value, specs.key_out, specs.state],
        out_shape=[d_decays, shares[0], array(v.shape, v.dtype), shares[1], array(dlast.shape, dlast.dtype)],
        compiler_params=specs.warps,
        cost_estimate=specs.cost(traffic(decays, d_decays, k, v, v, v, q, starts, states, dlast, *shares)),
        interpret=interpret,
        name=f"{rule.name}_gradient",
    )(decays, k, v, q, starts, states, dy, dlast)
    return ddecays.sum(0), of_sharers(dk.sum(0), k, 2), dv, of_sharers(dq.sum(0), q, 2), None, dS


_run.defvjp(_save, _backward)
