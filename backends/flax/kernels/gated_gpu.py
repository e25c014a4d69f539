"""The gated scan on a GPU, through Pallas and Triton: a program walks the tokens of a few channels with h in registers.

Tokens are taken STEPS at a time, so that their loads overlap. The backward pass computes gates and states again from h
before each such block.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from kernels.blocks_gpu import Ref, Refs, Token, lanes_of, load, store, tokens_of
from kernels.tiles import (
    Arrays,
    Gates,
    accumulator,
    added,
    again_and_back,
    array,
    first_tokens,
    flat,
    gates_cost,
    once,
    read,
    read_grad,
    traffic,
    up,
)

STEPS = 8  # tokens of a block
CHANNELS = 32  # of a program: one for each lane of its only warp


def gated_scan_gpu(
    gates: Gates, x: Arrays, w: Arrays, pos: jax.Array, state: jax.Array | None, *, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """h, or what is made of it, in the dtype of x[0], and the last h.

    x [B, T, *axes], w [*axes], pos [T] or [B, T], state [B, *axes].
    """
    shape, acc = x[0].shape, accumulator(*x, *w)
    x, w = tuple(flat(z, 2) for z in x), tuple(flat(z, 0).astype(acc) for z in w)
    h0 = jnp.zeros((shape[0], x[0].shape[2]), acc) if state is None else flat(state, 1).astype(acc)
    y, last = _run(gates, interpret, x, w, first_tokens(pos, STEPS)[:, 0], h0)
    return y.reshape(shape), last.reshape(shape[:1] + shape[2:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(gates: Gates, interpret: bool, x: Arrays, w: Arrays, first: jax.Array, h0: jax.Array) -> Arrays:
    y, last, _ = _forward(gates, interpret, x, w, first, h0)
    return y, last


def _save(
    gates: Gates, interpret: bool, x: Arrays, w: Arrays, first: jax.Array, h0: jax.Array
) -> tuple[Arrays, tuple[Arrays, Arrays, jax.Array, jax.Array]]:
    y, last, starts = _forward(gates, interpret, x, w, first, h0)
    return (y, last), (x, w, first, starts)


class ProgramSpecs:
    """What a program sees of the arrays of a scan; the grid is batch and channels."""

    def __init__(self, x: jax.Array, first: jax.Array) -> None:
        batch, self.time, self.channels = x.shape
        self.blocks = first.shape[1] // STEPS
        self.grid = (batch, up(self.channels, CHANNELS) // CHANNELS)
        shared = first.shape[0] == 1
        self.token = pl.BlockSpec((None, self.time, CHANNELS), lambda b, c: (b, 0, c))
        self.weight = pl.BlockSpec((CHANNELS,), lambda b, c: (c,))
        self.state = pl.BlockSpec((None, CHANNELS), lambda b, c: (b, c))
        self.start = pl.BlockSpec((None, self.blocks, CHANNELS), lambda b, c: (b, 0, c))
        self.first = pl.BlockSpec((None, first.shape[1]), lambda b, c: (0 if shared else b, 0))


WARP = plgpu.CompilerParams(num_warps=1, num_stages=1)


def _forward(gates: Gates, interpret: bool, x: Arrays, w: Arrays, first: jax.Array, h0: jax.Array) -> Arrays:
    """y, the last h [B, C], h before every block [B, blocks, C]."""
    specs, acc = ProgramSpecs(x[0], first), h0.dtype
    starts = array((x[0].shape[0], specs.blocks, specs.channels), acc)
    out: Arrays = pl.pallas_call(
        functools.partial(_forward_kernel, gates, specs.time, specs.channels),
        grid=specs.grid,
        in_specs=[tuple(specs.token for _ in x), tuple(specs.weight for _ in w), specs.first, specs.state],
        out_specs=[specs.token, specs.state, specs.start],
        out_shape=[array(x[0].shape, x[0].dtype), array(h0.shape, acc), starts],
        compiler_params=WARP,
        cost_estimate=gates_cost(once(gates), x, w, traffic(*x, *w, first, h0, h0, starts, x[0])),
        interpret=interpret,
        name="gated_scan",
    )(x, w, first, h0)
    return out


def _backward(
    gates: Gates, interpret: bool, saved: tuple[Arrays, Arrays, jax.Array, jax.Array], gradients: Arrays
) -> tuple[Arrays, Arrays, None, jax.Array]:
    x, w, first, starts = saved
    dy, dlast = gradients
    specs, acc = ProgramSpecs(x[0], first), starts.dtype
    tokens, weights = tuple(specs.token for _ in x), tuple(specs.weight for _ in w)
    sums = array(dlast.shape, acc)
    moved = traffic(*x, *x, *w, first, starts, dy, dlast, *(sums for _ in w))
    dx, dw, dh0 = pl.pallas_call(
        functools.partial(_backward_kernel, gates, specs.time, specs.channels),
        grid=specs.grid,
        in_specs=[tokens, weights, specs.first, specs.start, specs.token, specs.state],
        out_specs=[tokens, tuple(specs.state for _ in w), specs.state],
        out_shape=[tuple(array(z.shape, z.dtype) for z in x), tuple(sums for _ in w), sums],
        compiler_params=WARP,
        cost_estimate=gates_cost(again_and_back(gates), x, w, moved),
        interpret=interpret,
        name="gated_scan_gradient",
    )(x, w, first, starts, dy, dlast)
    return dx, tuple(z.sum(0) for z in dw), None, dh0


_run.defvjp(_save, _backward)


def _forward_kernel(
    gates: Gates, time: int, channels: int, x: Refs, w: Refs, first: Ref, h0: Ref, y: Ref, last: Ref, start: Ref
) -> None:
    lanes, acc = lanes_of(channels, CHANNELS), last.dtype
    weights = tuple(load(z, lanes) for z in w)

    def block(n: jax.Array, h: jax.Array) -> jax.Array:
        store(start.at[n], h, lanes)
        for token in tokens_of(n, STEPS, time, lanes, x, first, acc):
            a, u = _gates(gates, token, weights)
            before, h = h, a * h + u
            states = jnp.where(token.first, 0, before) if gates.before else h
            store(y.at[token.t], read(gates, states, token.x, weights), lanes & token.live)
        return h

    h = jax.lax.fori_loop(0, start.shape[0], block, load(h0, lanes))
    store(last, h, lanes)


def _backward_kernel(
    gates: Gates,
    time: int,
    channels: int,
    x: Refs,
    w: Refs,
    first: Ref,
    start: Ref,
    dy: Ref,
    dlast: Ref,
    dx: Refs,
    dw: Refs,
    dh0: Ref,
) -> None:
    lanes, acc, blocks = lanes_of(channels, CHANNELS), dh0.dtype, start.shape[0]
    weights = tuple(load(z, lanes) for z in w)

    def block(i: jax.Array, carried: Arrays) -> Arrays:
        e, *sums = carried
        n = blocks - 1 - i
        tokens = tokens_of(n, STEPS, time, lanes, x, first, acc)
        gradients = [load(dy.at[token.t], lanes & token.live).astype(acc) for token in tokens]
        decays, before = [], [load(start.at[n], lanes)]
        for token in tokens:
            a, u = _gates(gates, token, weights)
            decays.append(a)
            before.append(a * before[-1] + u)
        for k in reversed(range(STEPS)):
            token, a, h = tokens[k], decays[k], jnp.where(tokens[k].first, 0, before[k])
            states = h if gates.before else before[k + 1]
            d, dxs_read, dws_read = read_grad(gates, states, token.x, weights, gradients[k])
            d = jnp.where(token.live, d, 0)
            if gates.before:  # e[t] is what reaches h[t-1]
                g, e = e, a * e + jnp.where(token.first, 0, d)
            else:
                g, e = d + e, a * (d + e)
            da, du = jnp.where(token.live, g * h, 0), jnp.where(token.live, g, 0)
            dxs, dws = gates.gates_grad(token.x, weights, token.first, da, du)
            for z, value in zip(dx, added(dxs, dxs_read), strict=True):
                store(z.at[token.t], jnp.broadcast_to(value, lanes.shape), lanes & token.live)
            shares = added(dws, dws_read)
            sums = [z + jnp.where(token.live, value, 0) for z, value in zip(sums, shares, strict=True)]
        return e, *sums

    zero = jnp.zeros(lanes.shape, acc)
    e, *sums = jax.lax.fori_loop(0, blocks, block, (load(dlast, lanes), *(zero for _ in w)))
    for z, value in zip((dh0, *dw), (e, *sums), strict=True):
        store(z, value, lanes)


def _gates(gates: Gates, token: Token, w: Arrays) -> tuple[jax.Array, jax.Array]:
    """Decay and input; what is no token decays by nothing and adds nothing, so that the state survives."""
    a, u = gates.gates(token.x, w, token.first)
    return jnp.where(token.live, jnp.where(token.first, 0, a), 1), jnp.where(token.live, u, 0)
