"""The selective scan on a TPU, with its gates: states [N, channels] in vector memory, a token at a time.

States go into the backward pass at the start of each block of time, which is walked again; the states of all tokens
exist for one block only.
"""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from kernels.blocks_tpu import LANES, ORDER, ROWS
from kernels.selective import Operands, operands, scanned
from kernels.selective_keys_tpu import Cut, Keys, keys_of
from kernels.selective_walk_tpu import backward, forward
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

    x [B, T, *axes], w [*axes], A [*axes, N], B, C [B, T, N] or [B, T, *groups, N] with the first of the axes, pos
    [T] or [B, T], state [B, *axes, N].
    """
    time, axes = x[0].shape[1], x[0].shape[2:]
    o = operands(x, w, A, (B, C), state, (math.prod(axes),))
    block = min(TIME, up(time, ROWS))
    filled = up(time, LANES if time <= block else block)
    (B, of_B), (C, of_C) = (keys_of(z, axes, filled, o.A.dtype) for z in (B, C))
    o = o._replace(w=tuple(z[None] for z in o.w), BC=(B, C))
    return scanned(SelectiveTpu(gates, (of_B, of_C), interpret), first_tokens(pos, block), o, axes)


@dataclass(frozen=True)
class SelectiveTpu:
    """The passes over all channels; places: where documents start. keys: how B and C are read."""

    gates: Gates
    keys: tuple[Keys, Keys]
    interpret: bool

    def forward(self, first: jax.Array, o: Operands) -> tuple[Arrays, jax.Array]:
        """y and the last h [B, N, C]; h before every block [B, blocks, N, C]."""
        x, w, A, BC, h0 = o
        acc = h0.dtype
        specs = _Specs(x, A, BC, self.keys, first, acc)
        tokens, weight = tuple(specs.token for _ in x), tuple(specs.weight for _ in w)
        starts = array((h0.shape[0], specs.blocks, *h0.shape[1:]), acc)
        moved = traffic(*x, x[0], *w, *BC, first, h0, h0, starts)
        y, last, kept = pl.pallas_call(
            functools.partial(forward, self.gates, self.keys, specs.time),
            grid=specs.grid,
            in_specs=[tokens, weight, specs.decay, specs.read, specs.first, specs.state],
            out_specs=[specs.token, specs.state, specs.start],
            out_shape=[array(x[0].shape, x[0].dtype), array(h0.shape, acc), starts],
            scratch_shapes=[
                pltpu.VMEM((specs.block, specs.width), jnp.int32),
                *[pltpu.VMEM((ROWS, specs.width), acc)] * 4,
                pltpu.VMEM((specs.states, specs.width), acc),
            ],
            compiler_params=ORDER,
            cost_estimate=selective_cost(gates_cost(self.gates.gates, x, w, moved), 7, x[0].size, specs.states),
            interpret=self.interpret,
            name="selective_scan",
        )(x, w, A, specs.BC, first, h0)
        return (y, last), kept

    def backward(self, first: jax.Array, o: Operands, starts: jax.Array, gradients: Arrays) -> Operands:
        """The gradients of the operands."""
        (x, w, A, BC, _), (do, dlast) = o, gradients
        acc = starts.dtype
        specs = _Specs(x, A, BC, self.keys, first, acc, reverse=True)
        tokens, weight = tuple(specs.token for _ in x), tuple(specs.weight for _ in w)
        state = array(dlast.shape, acc)
        parts = [key.part(z, specs.cut, acc) for key, z in zip(self.keys, BC, strict=True)]
        part, part_specs = tuple(part for part, _ in parts), tuple(spec for _, spec in parts)
        moved = traffic(*x, *x, *w, do, *BC, first, starts, dlast, state, *part)
        work = gates_cost(again_and_back(self.gates), x, w, moved)
        tile = pltpu.VMEM((specs.block, specs.width), acc)
        dx, dw, dA, dBC, dh0 = pl.pallas_call(
            functools.partial(backward, self.gates, self.keys, specs.time, specs.channels),
            grid=specs.grid,
            in_specs=[
                *(tokens, weight, specs.decay, specs.read),
                *(specs.first, specs.start, specs.token, specs.state),
            ],
            out_specs=[tokens, tuple(specs.sum for _ in w), specs.state, part_specs, specs.state],
            out_shape=[
                tuple(array(z.shape, z.dtype) for z in x),
                tuple(array((do.shape[0], 1, specs.channels), acc) for _ in w),
                state,
                part,
                state,
            ],
            scratch_shapes=[
                pltpu.VMEM((specs.block, specs.width), jnp.int32),
                *[tile] * 4,
                *[pltpu.VMEM((ROWS, specs.width), acc)] * 3,
                pltpu.VMEM((specs.block, specs.states, specs.width), acc),
                tuple(key.held(z, specs.cut, acc) for key, z in zip(self.keys, BC, strict=True)),
                pltpu.VMEM((specs.states, specs.width), acc),
            ],
            compiler_params=ORDER,
            cost_estimate=selective_cost(work, 25, x[0].size, specs.states),
            interpret=self.interpret,
            name="selective_scan_gradient",
        )(x, w, A, specs.BC, first, starts, do, dlast)
        dBC = tuple(key.added(z, d) for key, z, d in zip(self.keys, BC, dBC, strict=True))
        return Operands(dx, tuple(z.sum(0) for z in dw), dA.sum(0), dBC, dh0)


class _Specs:
    """Blocks of the arrays of a selective scan, and its grid: batch, channels, time."""

    def __init__(
        self,
        x: Arrays,
        A: jax.Array,
        BC: Arrays,
        keys: tuple[Keys, Keys],
        first: jax.Array,
        acc: jnp.dtype,
        reverse: bool = False,
    ) -> None:
        batch, self.time, self.channels = x[0].shape
        self.states = states = A.shape[0]
        self.block = block = min(TIME, up(self.time, ROWS))
        room = STATES // (block * states * acc.itemsize) // LANES * LANES
        self.width = width = min(key.width(min(CHANNELS, max(room, LANES))) for key in keys)
        self.blocks = up(self.time, block) // block
        self.grid = (batch, up(self.channels, width) // width, self.blocks)
        last, shared = self.blocks - 1, first.shape[0] == 1

        def at(t: jax.Array) -> jax.Array:
            return last - t if reverse else t

        self.cut = Cut(self.blocks, block, width, at)
        read = [key.read(z, self.cut) for key, z in zip(keys, BC, strict=True)]
        self.BC, self.read = tuple(z for z, _ in read), tuple(spec for _, spec in read)
        self.token = pl.BlockSpec((1, block, width), lambda b, c, t: (b, at(t), c))
        self.weight = pl.BlockSpec((1, width), lambda b, c, t: (0, c))
        self.sum = pl.BlockSpec((1, 1, width), lambda b, c, t: (b, 0, c))
        self.decay = pl.BlockSpec((states, width), lambda b, c, t: (0, c))
        self.state = pl.BlockSpec((1, states, width), lambda b, c, t: (b, 0, c))
        self.start = pl.BlockSpec((1, 1, states, width), lambda b, c, t: (b, at(t), 0, c))
        self.first = pl.BlockSpec((1, 1, block), lambda b, c, t: (0 if shared else b, 0, at(t)))
