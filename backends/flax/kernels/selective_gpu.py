"""The selective scan on a GPU, with its gates, through Pallas and Triton: a program walks the tokens of a few channels.

Their states [N, channels] are in registers. The state before every BLOCK of tokens is kept for the backward pass, which
walks a block again, keeps more of its states where only it reads them, and has those of STEPS tokens in registers.
"""

import functools
import math
from dataclasses import dataclass

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from kernels.blocks_gpu import power
from kernels.selective import Operands, operands, scanned
from kernels.selective_groups import Shared, rows_of
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

    x [B, T, *axes], w [*axes], A [*axes, N], B, C [B, T, *groups, N], pos [T] or [B, T], state [B, *axes, N]. There are
    at most MOST states. A program has channels of one group, the first of the axes.
    """
    axes, groups = x[0].shape[2:], x[0].shape[2 : B.ndim - 1]
    (B, of_keys), (C, of_queries) = (rows_of(z, groups) for z in (B, C))
    o = operands(x, w, A, (B, C), state, (math.prod(groups), math.prod(axes[len(groups) :])))
    return scanned(SelectiveGpu(gates, (of_keys, of_queries), interpret), first_tokens(pos, BLOCK)[:, 0], o, axes)


@dataclass(frozen=True)
class SelectiveGpu:
    """The passes over all channels [groups, C]; places: where documents start.

    shared: which groups read the same row of keys, and of queries.
    """

    gates: Gates
    shared: tuple[Shared, Shared]
    interpret: bool

    def forward(self, first: jax.Array, o: Operands) -> tuple[Arrays, jax.Array]:
        """y and the last h [B, groups, N, C]; h before every block [B, blocks, groups, N, C]."""
        x, w, A, BC, h0 = o
        specs, acc = _Specs(x[0], A, first, self.shared), h0.dtype
        tokens, weight = tuple(specs.token for _ in x), tuple(specs.weight for _ in w)
        starts = array((h0.shape[0], specs.blocks, *h0.shape[1:]), acc)
        moved = traffic(*x, x[0], *w, *BC, first, h0, h0, starts)
        y, last, kept = pl.pallas_call(
            functools.partial(forward, self.gates, specs.sizes),
            grid=specs.grid,
            in_specs=[tokens, weight, specs.decay, specs.read, specs.first, specs.state],
            out_specs=[specs.token, specs.state, specs.start],
            out_shape=[array(x[0].shape, x[0].dtype), array(h0.shape, acc), starts],
            compiler_params=specs.warps,
            cost_estimate=selective_cost(gates_cost(self.gates.gates, x, w, moved), 7, x[0].size, specs.sizes.states),
            interpret=self.interpret,
            name="selective_scan",
        )(x, w, A, BC, first, h0)
        return (y, last), kept

    def backward(self, first: jax.Array, o: Operands, starts: jax.Array, gradients: Arrays) -> Operands:
        """The gradients of the operands."""
        (x, w, A, BC, _), (do, dlast) = o, gradients
        specs, acc = _Specs(x[0], A, first, self.shared), starts.dtype
        tokens, weight = tuple(specs.token for _ in x), tuple(specs.weight for _ in w)
        state, part = array(dlast.shape, acc), array((*specs.grid, do.shape[1], specs.sizes.states), acc)
        wait = (lambda: None) if self.interpret else plgpu.debug_barrier  # the interpreter has none, nor need of it
        moved = traffic(*x, *x, *w, do, *BC, first, starts, dlast, state, part, part)
        work = gates_cost(again_and_back(self.gates), x, w, moved)
        dx, dw, dA, dBC, dh0, _ = pl.pallas_call(
            functools.partial(backward, self.gates, specs.sizes, wait),
            grid=specs.grid,
            in_specs=[
                *(tokens, weight, specs.decay, specs.read),
                *(specs.first, specs.start, specs.token, specs.state),
            ],
            out_specs=[
                *(tokens, tuple(specs.sum for _ in w), specs.state, (specs.part, specs.part), specs.state),
                specs.between,
            ],
            out_shape=[
                tuple(array(z.shape, z.dtype) for z in x),
                tuple(array((do.shape[0], *z.shape), acc) for z in w),
                state,
                (part, part),
                state,
                array((do.shape[0], BLOCK // STEPS, *state.shape[1:]), acc),
            ],
            compiler_params=specs.warps,
            cost_estimate=selective_cost(work, 25, x[0].size, specs.sizes.states),
            interpret=self.interpret,
            name="selective_scan_gradient",
        )(x, w, A, BC, first, starts, do, dlast)
        by_group = (d.reshape(do.shape[0], do.shape[2], -1, *d.shape[2:]).sum(2) for d in dBC)
        rows = (s.added(d).swapaxes(1, 2).astype(z.dtype) for s, d, z in zip(self.shared, by_group, BC, strict=True))
        return Operands(dx, tuple(z.sum(0) for z in dw), dA.sum(0), tuple(rows), dh0)


class _Specs:
    """What a program sees of the arrays of a selective scan; the grid is batch and parts of groups of channels."""

    def __init__(self, x: jax.Array, A: jax.Array, first: jax.Array, shared: tuple[Shared, Shared]) -> None:
        batch, time, groups, channels = x.shape
        rows, width = power(A.shape[1]), min(CHANNELS, power(channels))
        self.sizes = Sizes(time, channels, width, A.shape[1])
        self.blocks, parts = first.shape[1] // BLOCK, self.sizes.parts
        self.grid = (batch, groups * parts)
        packed = first.shape[0] > 1

        def of_group(*block: int | None, place: int) -> pl.BlockSpec:
            """The block of an array with groups at `place` and their channels last, whole along other axes."""

            def index(b: jax.Array, c: jax.Array) -> tuple[jax.Array | int, ...]:
                at: list[jax.Array | int] = [0] * len(block)
                if place > 0:
                    at[0] = b
                at[place], at[-1] = c // parts, c % parts
                return tuple(at)

            return pl.BlockSpec(block, index)

        self.token = of_group(None, time, None, width, place=2)
        self.weight = of_group(None, width, place=0)
        self.sum = of_group(None, None, width, place=1)
        self.decay = of_group(None, rows, width, place=0)
        self.state = of_group(None, None, rows, width, place=1)
        self.start = of_group(None, self.blocks, None, rows, width, place=2)
        self.between = of_group(None, BLOCK // STEPS, None, rows, width, place=2)
        self.read = tuple(
            pl.BlockSpec((None, time, None, rows), lambda b, c, s=s: (b, 0, s.row(c // parts), 0)) for s in shared
        )
        self.part = pl.BlockSpec((None, None, time, rows), lambda b, c: (b, c, 0, 0))
        self.first = pl.BlockSpec((None, first.shape[1]), lambda b, c: (b if packed else 0, 0))
        self.warps = plgpu.CompilerParams(num_warps=max(1, rows // EACH), num_stages=1)
