"""The selective scan on a TPU, with its gates: states [N, channels] in vector memory, a token at a time.

States go into the backward pass at the start of each block of time, which is walked again; the states of all tokens
exist for one block only.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from kernels.blocks_tpu import LANES, ORDER, ROWS
from kernels.selective_walk_tpu import backward, forward
from kernels.tiles import (
    Arrays,
    Gates,
    accumulator,
    again_and_back,
    array,
    first_tokens,
    flat,
    gates_cost,
    selective_cost,
    traffic,
    up,
)

TIME = 128  # tokens of a block
CHANNELS = 512
STATES = 4 << 20  # bytes for the states of the tokens of a block


def selective_scan_tpu(
    gates: Gates,
    x: Arrays,
    w: Arrays,
    A: jax.Array,
    B: jax.Array,
    C: jax.Array,
    pos: jax.Array,
    state: jax.Array | None,
    *,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """What is read out, after `out`, in the dtype of x[0], and the last h [B, *axes, N].

    x [B, T, *axes], w [*axes], A [*axes, N], B, C [B, T, N], pos [T] or [B, T], state [B, *axes, N].
    """
    shape, acc, states = x[0].shape, accumulator(*x, *w, A, B, C), A.shape[-1]
    x, w = tuple(flat(z, 2) for z in x), tuple(z.reshape(1, -1).astype(acc) for z in w)
    h0 = jnp.zeros((*shape[:1], *A.shape), acc) if state is None else state.astype(acc)
    block = min(TIME, up(shape[1], ROWS))
    lanes = up(shape[1], LANES if shape[1] <= block else block)

    def turned(z: jax.Array) -> jax.Array:
        return jnp.pad(z.astype(acc).swapaxes(1, 2), ((0, 0), (0, 0), (0, lanes - shape[1])))

    h0 = h0.reshape(shape[0], -1, states).swapaxes(1, 2)
    A = A.astype(acc).reshape(-1, states).T * math.log2(math.e)  # powers of two cost a multiplication less
    y, last = _run(gates, interpret, x, w, A, (turned(B), turned(C)), first_tokens(pos, block), h0)
    return y.reshape(shape), last.swapaxes(1, 2).reshape(shape[0], *shape[2:], states)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(
    gates: Gates,
    interpret: bool,
    x: Arrays,
    w: Arrays,
    A: jax.Array,
    BC: Arrays,
    first: jax.Array,
    h0: jax.Array,
) -> Arrays:
    y, last, _ = _forward(gates, interpret, x, w, A, BC, first, h0)
    return y, last


Saved = tuple[Arrays, Arrays, jax.Array, Arrays, jax.Array, jax.Array]


def _save(
    gates: Gates,
    interpret: bool,
    x: Arrays,
    w: Arrays,
    A: jax.Array,
    BC: Arrays,
    first: jax.Array,
    h0: jax.Array,
) -> tuple[Arrays, Saved]:
    y, last, starts = _forward(gates, interpret, x, w, A, BC, first, h0)
    return (y, last), (x, w, A, BC, first, starts)


class _Specs:
    """Blocks of the arrays of a selective scan, and its grid: batch, channels, time."""

    def __init__(self, x: Arrays, BC: Arrays, first: jax.Array, acc: jnp.dtype, reverse: bool = False) -> None:
        batch, self.time, self.channels = x[0].shape
        self.states = states = BC[0].shape[1]
        self.block = block = min(TIME, up(self.time, ROWS))
        room = STATES // (block * states * acc.itemsize) // LANES * LANES
        self.width = width = min(CHANNELS, up(self.channels, LANES), max(room, LANES))
        self.blocks = up(self.time, block) // block
        self.grid = (batch, up(self.channels, width) // width, self.blocks)
        last, shared = self.blocks - 1, first.shape[0] == 1
        self.lanes = lanes = BC[0].shape[2] // self.blocks

        def at(t: jax.Array) -> jax.Array:
            return last - t if reverse else t

        self.token = pl.BlockSpec((1, block, width), lambda b, c, t: (b, at(t), c))
        self.weight = pl.BlockSpec((1, width), lambda b, c, t: (0, c))
        self.sum = pl.BlockSpec((1, 1, width), lambda b, c, t: (b, 0, c))
        self.decay = pl.BlockSpec((states, width), lambda b, c, t: (0, c))
        self.state = pl.BlockSpec((1, states, width), lambda b, c, t: (b, 0, c))
        self.start = pl.BlockSpec((1, 1, states, width), lambda b, c, t: (b, at(t), 0, c))
        self.read = pl.BlockSpec((1, states, lanes), lambda b, c, t: (b, 0, at(t)))
        self.part = pl.BlockSpec((1, 1, states, lanes), lambda b, c, t: (b, c, 0, at(t)))
        self.first = pl.BlockSpec((1, 1, block), lambda b, c, t: (0 if shared else b, 0, at(t)))


def _forward(
    gates: Gates,
    interpret: bool,
    x: Arrays,
    w: Arrays,
    A: jax.Array,
    BC: Arrays,
    first: jax.Array,
    h0: jax.Array,
) -> Arrays:
    """y, the last h [B, N, C], h before every block [B, blocks, N, C]."""
    acc = h0.dtype
    specs = _Specs(x, BC, first, acc)
    tokens, weight = tuple(specs.token for _ in x), tuple(specs.weight for _ in w)
    starts = array((h0.shape[0], specs.blocks, *h0.shape[1:]), acc)
    moved = traffic(*x, x[0], *w, *BC, first, h0, h0, starts)
    out: Arrays = pl.pallas_call(
        functools.partial(forward, gates, specs.time),
        grid=specs.grid,
        in_specs=[tokens, weight, specs.decay, (specs.read, specs.read), specs.first, specs.state],
        out_specs=[specs.token, specs.state, specs.start],
        out_shape=[array(x[0].shape, x[0].dtype), array(h0.shape, acc), starts],
        scratch_shapes=[
            pltpu.VMEM((specs.block, specs.width), jnp.int32),
            *[pltpu.VMEM((ROWS, specs.width), acc)] * 4,
            pltpu.VMEM((specs.states, specs.width), acc),
        ],
        compiler_params=ORDER,
        cost_estimate=selective_cost(gates_cost(gates.gates, x, w, moved), 7, x[0].size, specs.states),
        interpret=interpret,
        name="selective_scan",
    )(x, w, A, BC, first, h0)
    return out


def _backward(
    gates: Gates, interpret: bool, saved: Saved, gradients: Arrays
) -> tuple[Arrays, Arrays, jax.Array, Arrays, None, jax.Array]:
    x, w, A, BC, first, starts = saved
    do, dlast = gradients
    acc = starts.dtype
    specs = _Specs(x, BC, first, acc, reverse=True)
    tokens, weight = tuple(specs.token for _ in x), tuple(specs.weight for _ in w)
    state, read = array(dlast.shape, acc), array((do.shape[0], specs.grid[1], specs.states, BC[0].shape[2]), acc)
    moved = traffic(*x, *x, *w, do, *BC, first, starts, dlast, state, read, read)
    tile = pltpu.VMEM((specs.block, specs.width), acc)
    dx, dw, dA, dBC, dh0 = pl.pallas_call(
        functools.partial(backward, gates, specs.time, specs.channels),
        grid=specs.grid,
        in_specs=[
            *(tokens, weight, specs.decay, (specs.read, specs.read)),
            *(specs.first, specs.start, specs.token, specs.state),
        ],
        out_specs=[tokens, tuple(specs.sum for _ in w), specs.state, (specs.part, specs.part), specs.state],
        out_shape=[
            tuple(array(z.shape, z.dtype) for z in x),
            tuple(array((do.shape[0], 1, specs.channels), acc) for _ in w),
            state,
            (read, read),
            state,
        ],
        scratch_shapes=[
            pltpu.VMEM((specs.block, specs.width), jnp.int32),
            *[tile] * 4,
            *[pltpu.VMEM((ROWS, specs.width), acc)] * 3,
            pltpu.VMEM((specs.block, specs.states, specs.width), acc),
            pltpu.VMEM((specs.states, specs.width), acc),
        ],
        compiler_params=ORDER,
        cost_estimate=selective_cost(gates_cost(again_and_back(gates), x, w, moved), 25, x[0].size, specs.states),
        interpret=interpret,
        name="selective_scan_gradient",
    )(x, w, A, BC, first, starts, do, dlast)
    return dx, tuple(z.sum(0) for z in dw), dA.sum(0), tuple(z.sum(1) for z in dBC), None, dh0


_run.defvjp(_save, _backward)
