"""The gated scan of complex states on a GPU, through Pallas and Triton: the walk of `gated_gpu.py`, tiles in pairs."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from kernels.blocks_gpu import Ref, Refs, lanes_of, load, store, tokens_of
from kernels.complex_tiles import (
    ComplexGates,
    Pair,
    backward_work,
    forward_work,
    pick,
    plus,
    read_parts,
    read_parts_grad,
    times,
    token_gates,
    turned,
)
from kernels.gated_gpu import CHANNELS, STEPS, WARP, ProgramSpecs
from kernels.tiles import Arrays, accumulator, added, array, first_tokens, flat, gates_cost, traffic


def gated_complex_scan_gpu(
    gates: ComplexGates, x: Arrays, w: Arrays, pos: jax.Array, state: jax.Array | None, *, interpret: bool
) -> tuple[Arrays, Pair]:
    """The parts of h, or of what is made of it, in the dtype of x[0], and those of the last h.

    x [B, T, *axes], w [*axes], pos [T] or [B, T], state complex [B, *axes].
    """
    shape, acc = x[0].shape, accumulator(*x, *w)
    x, w = tuple(flat(z, 2) for z in x), tuple(flat(z, 0).astype(acc) for z in w)
    start = jnp.zeros((shape[0], *shape[2:]), acc) if state is None else state
    h0 = tuple(flat(part, 1).astype(acc) for part in (jnp.real(start), jnp.imag(start)))
    ys, (re, im) = _run(gates, interpret, x, w, first_tokens(pos, STEPS)[:, 0], h0)
    left = shape[:1] + shape[2:]
    return tuple(y.reshape(shape) for y in ys), (re.reshape(left), im.reshape(left))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(gates: ComplexGates, interpret: bool, x: Arrays, w: Arrays, first: jax.Array, h0: Arrays) -> Any:
    ys, last, _ = _forward(gates, interpret, x, w, first, h0)
    return ys, last


def _save(
    gates: ComplexGates, interpret: bool, x: Arrays, w: Arrays, first: jax.Array, h0: Arrays
) -> tuple[Any, tuple[Arrays, Arrays, jax.Array, Arrays]]:
    ys, last, starts = _forward(gates, interpret, x, w, first, h0)
    return (ys, last), (x, w, first, starts)


def _forward(gates: ComplexGates, interpret: bool, x: Arrays, w: Arrays, first: jax.Array, h0: Arrays) -> Any:
    """The parts of y, of the last h [B, C], and of h before every block [B, blocks, C]."""
    specs, acc = ProgramSpecs(x[0], first), h0[0].dtype
    starts = array((x[0].shape[0], specs.blocks, specs.channels), acc)
    ys = tuple(array(x[0].shape, x[0].dtype) for _ in range(1 if gates.real else 2))
    both = (specs.state, specs.state)
    return pl.pallas_call(
        functools.partial(_forward_kernel, gates, specs.time, specs.channels),
        grid=specs.grid,
        in_specs=[tuple(specs.token for _ in x), tuple(specs.weight for _ in w), specs.first, both],
        out_specs=[tuple(specs.token for _ in ys), both, (specs.start, specs.start)],
        out_shape=[ys, tuple(array(h.shape, acc) for h in h0), (starts, starts)],
        compiler_params=WARP,
        cost_estimate=gates_cost(forward_work(gates), x, w, traffic(*x, *w, first, h0, h0, starts, starts, ys)),
        interpret=interpret,
        name="gated_complex_scan",
    )(x, w, first, h0)


def _backward(
    gates: ComplexGates, interpret: bool, saved: tuple[Arrays, Arrays, jax.Array, Arrays], gradients: Any
) -> tuple[Arrays, Arrays, None, Arrays]:
    x, w, first, starts = saved
    dys, dlast = gradients
    specs, acc = ProgramSpecs(x[0], first), starts[0].dtype
    tokens, both = tuple(specs.token for _ in x), (specs.state, specs.state)
    sums = array(dlast[0].shape, acc)
    moved = traffic(*x, *x, *w, first, starts, dys, dlast, *(sums for _ in w))
    dx, dw, dh0 = pl.pallas_call(
        functools.partial(_backward_kernel, gates, specs.time, specs.channels),
        grid=specs.grid,
        in_specs=[
            tokens,
            tuple(specs.weight for _ in w),
            specs.first,
            (specs.start, specs.start),
            tuple(specs.token for _ in dys),
            both,
        ],
        out_specs=[tokens, tuple(specs.state for _ in w), both],
        out_shape=[tuple(array(z.shape, z.dtype) for z in x), tuple(sums for _ in w), (sums, sums)],
        compiler_params=WARP,
        cost_estimate=gates_cost(backward_work(gates), x, w, moved),
        interpret=interpret,
        name="gated_complex_scan_gradient",
    )(x, w, first, starts, dys, dlast)
    return dx, tuple(z.sum(0) for z in dw), None, dh0


_run.defvjp(_save, _backward)


def _forward_kernel(
    gates: ComplexGates, time: int, channels: int, x: Refs, w: Refs, first: Ref, h0: Refs,
    y: Refs, last: Refs, start: Refs,
) -> None:  # fmt: skip
    lanes, acc = lanes_of(channels, CHANNELS), last[0].dtype
    weights = tuple(load(z, lanes) for z in w)

    def block(n: jax.Array, h: Pair) -> Pair:
        for z, part in zip(start, h, strict=True):
            store(z.at[n], part, lanes)
        for token in tokens_of(n, STEPS, time, lanes, x, first, acc):
            a, u = token_gates(gates, token.x, weights, token.first, token.live)
            before, h = h, plus(times(a, h), u)
            states = pick(~token.first, before) if gates.before else h
            for z, value in zip(y, read_parts(gates, states, token.x, weights), strict=True):
                store(z.at[token.t], value, lanes & token.live)
        return h

    h = jax.lax.fori_loop(0, start[0].shape[0], block, (load(h0[0], lanes), load(h0[1], lanes)))
    for z, part in zip(last, h, strict=True):
        store(z, part, lanes)


def _backward_kernel(
    gates: ComplexGates, time: int, channels: int, x: Refs, w: Refs, first: Ref, start: Refs, dy: Refs, dlast: Refs,
    dx: Refs, dw: Refs, dh0: Refs,
) -> None:  # fmt: skip
    lanes, acc, blocks = lanes_of(channels, CHANNELS), dh0[0].dtype, start[0].shape[0]
    weights = tuple(load(z, lanes) for z in w)

    def block(i: jax.Array, carried: Any) -> Any:
        e, sums = carried
        n = blocks - 1 - i
        tokens = tokens_of(n, STEPS, time, lanes, x, first, acc)
        gradients = [tuple(load(z.at[token.t], lanes & token.live).astype(acc) for z in dy) for token in tokens]
        decays, before = [], [(load(start[0].at[n], lanes), load(start[1].at[n], lanes))]
        for token in tokens:
            a, u = token_gates(gates, token.x, weights, token.first, token.live)
            decays.append(turned(a))
            before.append(plus(times(a, before[-1]), u))
        for k in reversed(range(STEPS)):
            token, a, h = tokens[k], decays[k], pick(~tokens[k].first, before[k])
            states = h if gates.before else before[k + 1]
            d, dxs_read, dws_read = read_parts_grad(gates, states, token.x, weights, gradients[k])
            d = pick(token.live, d)
            if gates.before:  # e[t] is what reaches h[t-1]
                g, e = e, plus(times(a, e), pick(~token.first, d))
            else:
                g, e = plus(d, e), times(a, plus(d, e))
            da, du = pick(token.live, times(g, turned(h))), pick(token.live, g)
            dxs, dws = gates.gates_grad(token.x, weights, token.first, *da, *du)
            for z, value in zip(dx, added(dxs, dxs_read), strict=True):
                store(z.at[token.t], jnp.broadcast_to(value, lanes.shape), lanes & token.live)
            shares = added(dws, dws_read)
            sums = tuple(z + jnp.where(token.live, value, 0) for z, value in zip(sums, shares, strict=True))
        return e, sums

    zero = jnp.zeros(lanes.shape, acc)
    end = (load(dlast[0], lanes), load(dlast[1], lanes))
    e, sums = jax.lax.fori_loop(0, blocks, block, (end, tuple(zero for _ in w)))
    for z, value in zip((*dh0, *dw), (*e, *sums), strict=True):
        store(z, value, lanes)
