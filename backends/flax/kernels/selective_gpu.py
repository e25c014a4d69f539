"""The selective scan on a GPU, with its gates, through Pallas and Triton: a program walks the tokens of a few channels.

Their states [N, channels] are in registers. The state before every BLOCK of tokens is kept for the backward pass, which
walks a block again, keeps more of its states where only it reads them, and has those of STEPS tokens in registers.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from kernels.blocks_gpu import power
from kernels.selective_walk_gpu import BLOCK, CHANNELS, STEPS, Sizes, backward, forward
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

MOST = 128  # states
EACH = 16  # states of a channel in one warp


def selective_scan_gpu(
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

    x [B, T, *axes], w [*axes], A [*axes, N], B, C [B, T, N], pos [T] or [B, T], state [B, *axes, N]. There are at most
    MOST states.
    """
    shape, acc, states = x[0].shape, accumulator(*x, *w, A, B, C), A.shape[-1]
    x, w = tuple(flat(z, 2) for z in x), tuple(flat(z, 0).astype(acc) for z in w)
    h0 = jnp.zeros((*shape[:1], *A.shape), acc) if state is None else state.astype(acc)
    h0 = h0.reshape(shape[0], -1, states).swapaxes(1, 2)
    A = A.astype(acc).reshape(-1, states).T * math.log2(math.e)  # powers of two cost a multiplication less
    y, last = _run(gates, interpret, x, w, A, (B, C), first_tokens(pos, BLOCK)[:, 0], h0)
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
    """What a program sees of the arrays of a selective scan; the grid is batch and channels."""

    def __init__(self, x: jax.Array, A: jax.Array, first: jax.Array) -> None:
        batch, self.time, self.channels = x.shape
        self.states, rows = A.shape[0], power(A.shape[0])
        self.blocks = first.shape[1] // BLOCK
        self.grid = (batch, up(self.channels, CHANNELS) // CHANNELS)
        shared = first.shape[0] == 1
        self.token = pl.BlockSpec((None, self.time, CHANNELS), lambda b, c: (b, 0, c))
        self.weight = pl.BlockSpec((CHANNELS,), lambda b, c: (c,))
        self.sum = pl.BlockSpec((None, CHANNELS), lambda b, c: (b, c))
        self.decay = pl.BlockSpec((rows, CHANNELS), lambda b, c: (0, c))
        self.state = pl.BlockSpec((None, rows, CHANNELS), lambda b, c: (b, 0, c))
        self.start = pl.BlockSpec((None, self.blocks, rows, CHANNELS), lambda b, c: (b, 0, 0, c))
        self.read = pl.BlockSpec((None, self.time, rows), lambda b, c: (b, 0, 0))
        self.between = pl.BlockSpec((None, BLOCK // STEPS, rows, CHANNELS), lambda b, c: (b, 0, 0, c))
        self.part = pl.BlockSpec((None, None, self.time, rows), lambda b, c: (b, c, 0, 0))
        self.first = pl.BlockSpec((None, first.shape[1]), lambda b, c: (0 if shared else b, 0))
        self.warps = plgpu.CompilerParams(num_warps=max(1, rows // EACH), num_stages=1)
        self.sizes = Sizes(self.time, self.channels, self.states)


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
    specs, acc = _Specs(x[0], A, first), h0.dtype
    tokens, weight = tuple(specs.token for _ in x), tuple(specs.weight for _ in w)
    starts = array((h0.shape[0], specs.blocks, *h0.shape[1:]), acc)
    moved = traffic(*x, x[0], *w, *BC, first, h0, h0, starts)
    out: Arrays = pl.pallas_call(
        functools.partial(forward, gates, specs.sizes),
        grid=specs.grid,
        in_specs=[tokens, weight, specs.decay, (specs.read, specs.read), specs.first, specs.state],
        out_specs=[specs.token, specs.state, specs.start],
        out_shape=[array(x[0].shape, x[0].dtype), array(h0.shape, acc), starts],
        compiler_params=specs.warps,
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
    specs, acc = _Specs(x[0], A, first), starts.dtype
    tokens, weight = tuple(specs.token for _ in x), tuple(specs.weight for _ in w)
    state, part = array(dlast.shape, acc), array((*specs.grid, *BC[0].shape[1:]), acc)
    wait = (lambda: None) if interpret else plgpu.debug_barrier  # which the interpreter does not know, nor need
    moved = traffic(*x, *x, *w, do, *BC, first, starts, dlast, state, part, part)
    dx, dw, dA, dBC, dh0, _ = pl.pallas_call(
        functools.partial(backward, gates, specs.sizes, wait),
        grid=specs.grid,
        in_specs=[
            *(tokens, weight, specs.decay, (specs.read, specs.read)),
            *(specs.first, specs.start, specs.token, specs.state),
        ],
        out_specs=[
            *(tokens, tuple(specs.sum for _ in w), specs.state, (specs.part, specs.part), specs.state),
            specs.between,
        ],
        out_shape=[
            tuple(array(z.shape, z.dtype) for z in x),
            tuple(array((do.shape[0], specs.channels), acc) for _ in w),
            state,
            (part, part),
            state,
            array((do.shape[0], BLOCK // STEPS, *state.shape[1:]), acc),
        ],
        compiler_params=specs.warps,
        cost_estimate=selective_cost(gates_cost(again_and_back(gates), x, w, moved), 25, x[0].size, specs.states),
        interpret=interpret,
        name="selective_scan_gradient",
    )(x, w, A, BC, first, starts, do, dlast)
    dBC = tuple(d.sum(1).astype(z.dtype) for d, z in zip(dBC, BC, strict=True))
    return dx, tuple(z.sum(0) for z in dw), dA.sum(0), dBC, None, dh0


_run.defvjp(_save, _backward)
