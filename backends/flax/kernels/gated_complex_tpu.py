"""The gated scan of complex states on a TPU: the walk of `gated_tpu.py` with pairs of real tiles."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from kernels.blocks_tpu import ORDER, ROWS, Ref, Refs, column, group, inputs, time_block, weights
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
from kernels.gated_tpu import CHANNELS, TokenSpecs
from kernels.tiles import Arrays, accumulator, added, array, first_tokens, flat, gates_cost, traffic


def gated_complex_scan_tpu(
    gates: ComplexGates, x: Arrays, w: Arrays, pos: jax.Array, state: jax.Array | None, *, interpret: bool
) -> tuple[Arrays, Pair]:
    """The parts of h, or of what is made of it, in the dtype of x[0], and those of the last h.

    x [B, T, *axes], w [*axes], pos [T] or [B, T], state complex [B, *axes].
    """
    shape, acc = x[0].shape, accumulator(*x, *w)
    x, w = tuple(flat(z, 2) for z in x), tuple(z.reshape(1, -1).astype(acc) for z in w)
    start = jnp.zeros((shape[0], *shape[2:]), acc) if state is None else state
    h0 = tuple(flat(part, 1)[:, None].astype(acc) for part in (jnp.real(start), jnp.imag(start)))
    ys, (re, im) = _run(gates, interpret, x, w, first_tokens(pos, _block(x, acc)), h0)
    left = shape[:1] + shape[2:]
    return tuple(y.reshape(shape) for y in ys), (re.reshape(left), im.reshape(left))


def _block(x: Arrays, acc: jnp.dtype) -> int:
    """The backward pass holds inputs, their gradients and those of h twice, and decays, states and starts once."""
    size = acc.itemsize
    held = 2 * (2 * sum(z.dtype.itemsize for z in x) + 2 * x[0].dtype.itemsize) + 4 * size + 4
    block: int = time_block(x[0].shape[1], held * CHANNELS)
    return block


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(gates: ComplexGates, interpret: bool, x: Arrays, w: Arrays, first: jax.Array, h0: Arrays) -> Any:
    ys, last, _ = _forward(gates, interpret, x, w, first, h0)
    return ys, last


def _save(
    gates: ComplexGates, interpret: bool, x: Arrays, w: Arrays, first: jax.Array, h0: Arrays
) -> tuple[Any, tuple[Arrays, Arrays, jax.Array, Arrays]]:
    ys, last, starts = _forward(gates, interpret, x, w, first, h0)
    return (ys, last), (x, w, first, starts)


def _parts(gates: ComplexGates) -> range:
    return range(1 if gates.real else 2)


def _forward(gates: ComplexGates, interpret: bool, x: Arrays, w: Arrays, first: jax.Array, h0: Arrays) -> Any:
    """The parts of y, of the last h [B, 1, C], and of h before every block [B, blocks, 1, C]."""
    acc = h0[0].dtype
    specs = TokenSpecs(x, first, _block(x, acc))
    starts = array((x[0].shape[0], specs.blocks, 1, x[0].shape[2]), acc)
    ys = tuple(array(x[0].shape, x[0].dtype) for _ in _parts(gates))
    both = (specs.state, specs.state)
    return pl.pallas_call(
        functools.partial(_forward_kernel, gates, specs.time),
        grid=specs.grid,
        in_specs=[tuple(specs.token for _ in x), tuple(specs.weight for _ in w), specs.first, both],
        out_specs=[tuple(specs.token for _ in ys), both, (specs.start, specs.start)],
        out_shape=[ys, tuple(array(h.shape, acc) for h in h0), (starts, starts)],
        scratch_shapes=[
            pltpu.VMEM((specs.block, specs.width), jnp.int32),
            *[pltpu.VMEM((ROWS, specs.width), acc)] * 4,
            *[pltpu.VMEM((1, specs.width), acc)] * 2,
        ],
        compiler_params=ORDER,
        cost_estimate=gates_cost(forward_work(gates), x, w, traffic(*x, *w, first, h0, h0, starts, starts, ys)),
        interpret=interpret,
        name="gated_complex_scan",
    )(x, w, first, h0)


def _backward(
    gates: ComplexGates, interpret: bool, saved: tuple[Arrays, Arrays, jax.Array, Arrays], gradients: Any
) -> tuple[Arrays, Arrays, None, Arrays]:
    x, w, first, starts = saved
    dys, dlast = gradients
    acc = starts[0].dtype
    specs = TokenSpecs(x, first, _block(x, acc), reverse=True)
    tokens, both = tuple(specs.token for _ in x), (specs.state, specs.state)
    sums = array(dlast[0].shape, acc)
    moved = traffic(*x, *x, *w, first, starts, dys, dlast, *(sums for _ in w))
    dx, dw, dh0 = pl.pallas_call(
        functools.partial(_backward_kernel, gates, specs.time),
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
        scratch_shapes=[
            pltpu.VMEM((specs.block, specs.width), jnp.int32),
            *[pltpu.VMEM((specs.block, specs.width), acc)] * 4,
            *[pltpu.VMEM((ROWS, specs.width), acc)] * 2,
            *[pltpu.VMEM((1, specs.width), acc)] * 2,
        ],
        compiler_params=ORDER,
        cost_estimate=gates_cost(backward_work(gates), x, w, moved),
        interpret=interpret,
        name="gated_complex_scan_gradient",
    )(x, w, first, starts, dys, dlast)
    return dx, tuple(z.sum(0) for z in dw), None, dh0


_run.defvjp(_save, _backward)


def _forward_kernel(
    gates: ComplexGates, time: int, x: Refs, w: Refs, first: Ref, h0: Refs, y: Refs, last: Refs, start: Refs,
    fresh: Ref, a_re: Ref, a_im: Ref, u_re: Ref, u_im: Ref, carry_re: Ref, carry_im: Ref,
) -> None:  # fmt: skip
    a, u, carry = (a_re, a_im), (u_re, u_im), (carry_re, carry_im)

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        for z, before in zip(carry, h0, strict=True):
            z[...] = before[0]

    for z, now in zip(start, carry, strict=True):
        z[0, 0] = now[...]
    left = time - pl.program_id(2) * fresh.shape[0]
    fresh[...] = column(first[0], fresh.shape[1])

    def of_group(i: jax.Array, h: Pair) -> Pair:
        at, live = group(i, left, fresh.shape[1])
        tokens = inputs(x, at, live, u_re.dtype), weights(w)
        starts = fresh[at, :] != 0
        decays, entering = token_gates(gates, *tokens, starts, live)
        _put(a, slice(None), decays)
        _put(u, slice(None), entering)
        before, h = h, _walk(a, u, h, 0)
        states = _get(u, slice(None))
        states = pick(~starts, _previous(states, before)) if gates.before else states
        for z, value in zip(y, read_parts(gates, states, *tokens), strict=True):
            z[0, at, :] = value.astype(z.dtype)
        return h

    end = jax.lax.fori_loop(0, fresh.shape[0] // ROWS, of_group, _get(carry, slice(None)))
    _put(carry, slice(None), end)
    for z, value in zip(last, end, strict=True):
        z[0] = value


def _backward_kernel(
    gates: ComplexGates, time: int, x: Refs, w: Refs, first: Ref, start: Refs, dy: Refs, dlast: Refs,
    dx: Refs, dw: Refs, dh0: Refs,
    fresh: Ref, a_re: Ref, a_im: Ref, h_re: Ref, h_im: Ref, e_re: Ref, e_im: Ref, carry_re: Ref, carry_im: Ref,
) -> None:  # fmt: skip
    a, h, e, carry = (a_re, a_im), (h_re, h_im), (e_re, e_im), (carry_re, carry_im)
    acc = e_re.dtype

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        for z, value in zip(carry, dlast, strict=True):
            z[...] = value[0]
        for z in dw:
            z[...] = jnp.zeros_like(z)

    groups = fresh.shape[0] // ROWS
    left = time - (pl.num_programs(2) - 1 - pl.program_id(2)) * fresh.shape[0]
    fresh[...] = column(first[0], fresh.shape[1])
    entered = (start[0][0, 0], start[1][0, 0])

    def again(i: jax.Array, before: Pair) -> Pair:
        at, live = group(i, left, fresh.shape[1])
        decays, entering = token_gates(gates, inputs(x, at, live, acc), weights(w), fresh[at, :] != 0, live)
        _put(a, (at, slice(None)), decays)
        _put(h, (at, slice(None)), entering)
        return _walk(a, h, before, i * ROWS)

    def back(i: jax.Array, carried: Any) -> Any:
        after, sums = carried
        i = groups - 1 - i
        at, live = group(i, left, fresh.shape[1])
        rows = (at, slice(None))
        tokens = inputs(x, at, live, acc), weights(w)
        starts = fresh[at, :] != 0
        ahead = _get(h, (pl.ds(jnp.maximum(i * ROWS - 1, 0), 1), slice(None)))
        ahead = tuple(jnp.where(i == 0, z, value) for z, value in zip(entered, ahead, strict=True))
        previous = pick(~starts, _previous(_get(h, rows), ahead))
        states = previous if gates.before else _get(h, rows)
        incoming = tuple(z[0, at, :].astype(acc) for z in dy)
        d, dxs_read, dws_read = read_parts_grad(gates, states, *tokens, incoming)
        d = pick(live & ~starts if gates.before else live, d)
        _put(e, slice(None), d if gates.before else times(turned(_get(a, rows)), d))
        earliest = _walk_back(a, e, after, i * ROWS)
        g = _next(_get(e, slice(None)), after)  # e[t] = conj(a[t]) g[t], or that and d
        g = g if gates.before else plus(d, g)
        da, du = pick(live, times(g, turned(previous))), pick(live, g)
        dxs, dws = gates.gates_grad(*tokens, starts, *da, *du)
        for z, value in zip(dx, added(dxs, dxs_read), strict=True):
            z[0, at, :] = jnp.broadcast_to(value, live.shape).astype(z.dtype)
        more = (jnp.where(live, value, 0).sum(0, keepdims=True) for value in added(dws, dws_read))
        return earliest, tuple(z + value for z, value in zip(sums, more, strict=True))

    jax.lax.fori_loop(0, groups, again, entered)
    end, sums = jax.lax.fori_loop(0, groups, back, (_get(carry, slice(None)), tuple(z[0] for z in dw)))
    _put(carry, slice(None), end)
    for z, value in zip(dw, sums, strict=True):
        z[0] = value
    for z, value in zip(dh0, end, strict=True):
        z[0] = value


def _get(pair: Refs, at: Any) -> Pair:
    return pair[0][at], pair[1][at]


def _put(pair: Refs, at: Any, value: Pair) -> None:
    for z, part in zip(pair, value, strict=True):
        z[at] = part


def _previous(h: Pair, before: Pair) -> Pair:
    """The state before each of ROWS tokens, from those after each and that before the first."""
    return tuple(
        jnp.where(jax.lax.broadcasted_iota(jnp.int32, z.shape, 0) == 0, first, pltpu.roll(z, 1, 0))
        for z, first in zip(h, before, strict=True)
    )


def _next(e: Pair, after: Pair) -> Pair:
    """What leaves the token behind each of ROWS tokens, and behind the last one `after`."""
    return tuple(
        jnp.where(jax.lax.broadcasted_iota(jnp.int32, z.shape, 0) == ROWS - 1, last, pltpu.roll(z, ROWS - 1, 0))
        for z, last in zip(e, after, strict=True)
    )


def _walk(a: Refs, u: Refs, h: Pair, base: jax.Array | int) -> Pair:
    """h = a h + u over ROWS rows, in place of u."""
    for k in range(ROWS):
        row = (pl.ds(base + k, 1), slice(None))
        h = plus(times(_get(a, row), h), _get(u, row))
        _put(u, row, h)
    return h


def _walk_back(a: Refs, e: Refs, after: Pair, base: jax.Array | int) -> Pair:
    """e[t] = conj(a[t]) e[t+1] + d[t] over ROWS rows in reverse, in place of d."""
    for k in reversed(range(ROWS)):
        decay = turned(_get(a, (pl.ds(base + k, 1), slice(None))))
        after = plus(times(decay, after), _get(e, (pl.ds(k, 1), slice(None))))
        _put(e, (pl.ds(k, 1), slice(None)), after)
    return after
