"""The selective scan on a GPU, with its gates, through Pallas and Triton: a program walks the tokens of a few channels.

Their states [N, channels] are in registers. The state before every BLOCK of tokens is kept for the backward pass, which
walks a block again, keeps more of its states where only it reads them, and has those of STEPS tokens in registers.
"""

import functools
from dataclasses import dataclass

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from kernels.blocks_gpu import power
from kernels.selective import Operands, operands, scanned
from kernels.selective_walk_gpu import BLOCK, CHANNELS, STEPS, Sizes, backward, forward
from kernels.tiles import (
    Arrays,
    Gates,
    again_and_back,
    array,
    first_tokens,
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
    o = operands(x, w, A, B, C, state)
    return scanned(SelectiveGpu(gates, interpret), first_tokens(pos, BLOCK)[:, 0], o, x[0].shape[2:])


@dataclass(frozen=True)
class SelectiveGpu:
    """The passes over all channels; places: where documents start."""

    gates: Gates
    interpret: bool

    def forward(self, first: jax.Array, o: Operands) -> tuple[Arrays, jax.Array]:
        """y and the last h [B, N, C]; h before every block [B, blocks, N, C]."""
        x, w, A, BC, h0 = o
        specs, acc = _Specs(x[0], A, first), h0.dtype
        tokens, weight = tuple(specs.token for _ in x), tuple(specs.weight for _ in w)
        starts = array((h0.shape[0], specs.blocks, *h0.shape[1:]), acc)
        moved = traffic(*x, x[0], *w, *BC, first, h0, h0, starts)
        y, last, kept = pl.pallas_call(
            functools.partial(forward, self.gates, specs.sizes),
            grid=specs.grid,
            in_specs=[tokens, weight, specs.decay, (specs.read, specs.read), specs.first, specs.state],
            out_specs=[specs.token, specs.state, specs.start],
            out_shape=[array(x[0].shape, x[0].dtype), array(h0.shape, acc), starts],
            compiler_params=specs.warps,
            cost_estimate=selective_cost(gates_cost(self.gates.gates, x, w, moved), 7, x[0].size, specs.states),
            interpret=self.interpret,
            name="selective_scan",
        )(x, w, A, BC, first, h0)
        return (y, last), kept

    def backward(self, first: jax.Array, o: Operands, starts: jax.Array, gradients: Arrays) -> Operands:
        """The gradients of the operands."""
        (x, w, A, BC, _), (do, dlast) = o, gradients
        specs, acc = _Specs(x[0], A, first), starts.dtype
        tokens, weight = tuple(specs.token for _ in x), tuple(specs.weight for _ in w)
        state, part = array(dlast.shape, acc), array((*specs.grid, *BC[0].shape[1:]), acc)
        wait = (lambda: None) if self.interpret else plgpu.debug_barrier  # the interpreter has none, nor need of it
        moved = traffic(*x, *x, *w, do, *BC, first, starts, dlast, state, part, part)
        work = gates_cost(again_and_back(self.gates), x, w, moved)
        dx, dw, dA, dBC, dh0, _ = pl.pallas_call(
            functools.partial(backward, self.gates, specs.sizes, wait),
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
            cost_estimate=selective_cost(work, 25, x[0].size, specs.states),
            interpret=self.interpret,
            name="selective_scan_gradient",
        )(x, w, A, BC, first, starts, do, dlast)
        dBC = tuple(d.sum(1).astype(z.dtype) for d, z in zip(dBC, BC, strict=True))
        return Operands(dx, tuple(z.sum(0) for z in dw), dA.sum(0), dBC, dh0)


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
