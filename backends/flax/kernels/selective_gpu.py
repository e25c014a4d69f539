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
from kernels.selective_groups import Shared, rows_of
from kernels.selective_walk_gpu import BLOCK, CHANNELS, STEPS, Sizes, backward, forward
from kernels.tiles import (
    Arrays,
    Gates,
    accumulator,
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
    shape, acc, states = x[0].shape, accumulator(*x, *w, A, B, C), A.shape[-1]
    groups = shape[2 : B.ndim - 1]
    by_group = (math.prod(groups), math.prod(shape[B.ndim - 1 :]))
    x = tuple(z.reshape(*shape[:2], *by_group) for z in x)
    w = tuple(z.reshape(by_group).astype(acc) for z in w)
    h0 = jnp.zeros((*shape[:1], *A.shape), acc) if state is None else state.astype(acc)
    h0 = h0.reshape(shape[0], *by_group, states).mT
    A = A.astype(acc).reshape(*by_group, states).mT * math.log2(math.e)  # powers of two cost a multiplication less
    (B, of_keys), (C, of_queries) = (rows_of(z, groups) for z in (B, C))
    first = first_tokens(pos, BLOCK)[:, 0]
    y, last = _run(gates, (of_keys, of_queries), interpret, x, w, A, (B, C), first, h0)
    return y.reshape(shape), last.mT.reshape(shape[0], *shape[2:], states)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _run(
    gates: Gates,
    shared: tuple[Shared, Shared],
    interpret: bool,
    x: Arrays,
    w: Arrays,
    A: jax.Array,
    BC: Arrays,
    first: jax.Array,
    h0: jax.Array,
) -> Arrays:
    y, last, _ = _forward(gates, shared, interpret, x, w, A, BC, first, h0)
    return y, last


Saved = tuple[Arrays, Arrays, jax.Array, Arrays, jax.Array, jax.Array]


def _save(
    gates: Gates,
    shared: tuple[Shared, Shared],
    interpret: bool,
    x: Arrays,
    w: Arrays,
    A: jax.Array,
    BC: Arrays,
    first: jax.Array,
    h0: jax.Array,
) -> tuple[Arrays, Saved]:
    y, last, starts = _forward(gates, shared, interpret, x, w, A, BC, first, h0)
    return (y, last), (x, w, A, BC, first, starts)


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


def _forward(
    gates: Gates,
    shared: tuple[Shared, Shared],
    interpret: bool,
    x: Arrays,
    w: Arrays,
    A: jax.Array,
    BC: Arrays,
    first: jax.Array,
    h0: jax.Array,
) -> Arrays:
    """y, the last h [B, groups, N, C], h before every block [B, blocks, groups, N, C]."""
    specs, acc = _Specs(x[0], A, first, shared), h0.dtype
    tokens, weight = tuple(specs.token for _ in x), tuple(specs.weight for _ in w)
    starts = array((h0.shape[0], specs.blocks, *h0.shape[1:]), acc)
    moved = traffic(*x, x[0], *w, *BC, first, h0, h0, starts)
    out: Arrays = pl.pallas_call(
        functools.partial(forward, gates, specs.sizes),
        grid=specs.grid,
        in_specs=[tokens, weight, specs.decay, specs.read, specs.first, specs.state],
        out_specs=[specs.token, specs.state, specs.start],
        out_shape=[array(x[0].shape, x[0].dtype), array(h0.shape, acc), starts],
        compiler_params=specs.warps,
        cost_estimate=selective_cost(gates_cost(gates.gates, x, w, moved), 7, x[0].size, specs.sizes.states),
        interpret=interpret,
        name="selective_scan",
    )(x, w, A, BC, first, h0)
    return out


def _backward(
    gates: Gates, shared: tuple[Shared, Shared], interpret: bool, saved: Saved, gradients: Arrays
) -> tuple[Arrays, Arrays, jax.Array, Arrays, None, jax.Array]:
    x, w, A, BC, first, starts = saved
    do, dlast = gradients
    specs, acc = _Specs(x[0], A, first, shared), starts.dtype
    tokens, weight = tuple(specs.token for _ in x), tuple(specs.weight for _ in w)
    state, part = array(dlast.shape, acc), array((*specs.grid, do.shape[1], specs.sizes.states), acc)
    wait = (lambda: None) if interpret else plgpu.debug_barrier  # which the interpreter does not know, nor need
    moved = traffic(*x, *x, *w, do, *BC, first, starts, dlast, state, part, part)
    dx, dw, dA, dBC, dh0, _ = pl.pallas_call(
        functools.partial(backward, gates, specs.sizes, wait),
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
        cost_estimate=selective_cost(gates_cost(again_and_back(gates), x, w, moved), 25, x[0].size, specs.sizes.states),
        interpret=interpret,
        name="selective_scan_gradient",
    )(x, w, A, BC, first, starts, do, dlast)
    by_group = (d.reshape(do.shape[0], do.shape[2], -1, *d.shape[2:]).sum(2) for d in dBC)
    rows = (s.added(d).swapaxes(1, 2).astype(z.dtype) for s, d, z in zip(shared, by_group, BC, strict=True))
    return dx, tuple(z.sum(0) for z in dw), dA.sum(0), tuple(rows), None, dh0


_run.defvjp(_save, _backward)
