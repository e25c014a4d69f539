"""The causal convolution on a GPU, through Pallas and Triton: a program has some tokens of some channels.

Taps are read again for each token that they reach, from the cache.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from kernels.blocks_gpu import Ref, load, power, store, tile
from kernels.taps import before_gradient, slope, taps_cost, with_bias
from kernels.tiles import Arrays, array, flat, traffic, up

TIME = 32  # tokens of a program
CHANNELS = 64
MOST = 32  # taps, each of which is code
WARPS = plgpu.CompilerParams(num_warps=4, num_stages=1)


def causal_conv_gpu(
    x: jax.Array,
    w: jax.Array,
    pos: jax.Array,
    before: jax.Array,
    bias: jax.Array | None,
    silu: bool,
    *,
    interpret: bool,
) -> jax.Array:
    """y [B, T, *axes] in the dtype of x; w [taps, *axes], pos [T] or [B, T], before [B, taps - 1, *axes], bias [*axes].

    There are at most MOST taps.
    """
    places = pos.astype(jnp.int32).reshape(-1, x.shape[1])
    return _run(interpret, silu, flat(x, 2), with_bias(x, w, bias), places, flat(before, 2)).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(interpret: bool, silu: bool, x: jax.Array, w: jax.Array, pos: jax.Array, before: jax.Array) -> jax.Array:
    specs = _Specs(x, w, pos)
    y: jax.Array = pl.pallas_call(
        functools.partial(_forward_kernel, silu, specs.shape),
        grid=specs.grid,
        in_specs=[specs.token, specs.before, specs.weight, specs.pos],
        out_specs=specs.token,
        out_shape=array(x.shape, x.dtype),
        compiler_params=WARPS,
        cost_estimate=taps_cost(2, silu, x, w, traffic(x, x, w, pos)),
        interpret=interpret,
        name="causal_conv",
    )(x, _some(before), w, pos)
    return y


def _save(
    interpret: bool, silu: bool, x: jax.Array, w: jax.Array, pos: jax.Array, before: jax.Array
) -> tuple[jax.Array, Arrays]:
    return _run(interpret, silu, x, w, pos, before), (x, w, pos, before)


def _backward(
    interpret: bool, silu: bool, saved: Arrays, dy: jax.Array
) -> tuple[jax.Array, jax.Array, None, jax.Array]:
    x, w, pos, before = saved
    specs = _Specs(x, w, pos)
    sums = array((x.shape[0], specs.grid[1], *w.shape), w.dtype)
    steps = 4 + 2 * silu * (w.shape[0] - 1)  # sums of taps again, for each token that a token reaches
    dx, dw = pl.pallas_call(
        functools.partial(_backward_kernel, silu, specs.shape),
        grid=specs.grid,
        in_specs=[specs.token, specs.before, specs.token, specs.weight, specs.pos],
        out_specs=[specs.token, specs.sum],
        out_shape=[array(x.shape, x.dtype), sums],
        compiler_params=WARPS,
        cost_estimate=taps_cost(steps, silu, x, w, traffic(x, x, dy, w, pos, sums)),
        interpret=interpret,
        name="causal_conv_gradient",
    )(x, _some(before), dy, w, pos)
    return dx, dw.sum((0, 1)), None, before_gradient(silu, x, w, pos, before, dy)


_run.defvjp(_save, _backward)


def _some(before: jax.Array) -> jax.Array:
    """The inputs before the first, of which a single tap has none; an array must not be empty."""
    return jnp.pad(before, ((0, 0), (0, 1 if before.shape[1] == 0 else 0), (0, 0)))


class _Specs:
    """What a program sees of the arrays of a convolution: all of a sequence. The grid is batch, time, channels."""

    def __init__(self, x: jax.Array, w: jax.Array, pos: jax.Array) -> None:
        (batch, time, channels), past, shared = x.shape, w.shape[0] - 2, pos.shape[0] == 1
        self.shape = min(TIME, power(time)), min(CHANNELS, power(channels))
        self.grid = (batch, *(up(size, part) // part for size, part in zip((time, channels), self.shape, strict=True)))
        self.token = pl.BlockSpec((None, time, channels), lambda b, t, c: (b, 0, 0))
        self.before = pl.BlockSpec((None, max(past, 1), channels), lambda b, t, c: (b, 0, 0))
        self.weight = pl.BlockSpec(w.shape, lambda b, t, c: (0, 0))
        self.sum = pl.BlockSpec((None, None, *w.shape), lambda b, t, c: (b, t, 0, 0))
        self.pos = pl.BlockSpec((None, time), lambda b, t, c: (0 if shared else b, 0))


class _Tile(NamedTuple):
    """Some tokens of some channels of a sequence: their places, which of them there are, and what they read."""

    rows: jax.Array
    lanes: jax.Array
    width: jax.Array
    x: Ref
    before: Ref
    w: Ref
    pos: Ref

    def later(self, j: int) -> "_Tile":
        """The tokens j after these."""
        return self._replace(rows=self.rows + j)

    def live(self) -> jax.Array:
        """Which elements there are."""
        return (self.rows < self.x.shape[0])[:, None] & self.width[None, :]

    def weight(self, row: int) -> jax.Array:
        """A row of the weights."""
        return load(self.w.at[row, self.lanes], self.width)[None, :]

    def near(self, j: int) -> jax.Array:
        """Which tokens see what stands j before them."""
        return (load(self.pos.at[self.rows], self.rows < self.x.shape[0]) >= j)[:, None]

    def tap(self, j: int) -> jax.Array:
        """What stands j tokens before each, 0 if that is another document."""
        rows, seen = self.rows - j, self.live() & self.near(j)
        value = tile(self.x, rows, self.lanes, seen & (rows >= 0)[:, None]).astype(self.w.dtype)
        if j == 0:
            return value
        old = tile(self.before, rows + self.w.shape[0] - 2, self.lanes, seen & (rows < 0)[:, None])
        return value + old.astype(self.w.dtype)

    def total(self) -> jax.Array:
        """The sum of taps and bias."""
        taps = self.w.shape[0] - 1
        return sum((self.weight(taps - 1 - j) * self.tap(j) for j in range(taps)), start=self.weight(taps))


def _tile(shape: tuple[int, int], x: Ref, before: Ref, w: Ref, pos: Ref) -> _Tile:
    rows, lanes = (
        pl.program_id(axis) * size + jnp.arange(size, dtype=jnp.int32) for axis, size in zip((1, 2), shape, strict=True)
    )
    return _Tile(rows, lanes, lanes < x.shape[1], x, before, w, pos)


def _forward_kernel(silu: bool, shape: tuple[int, int], x: Ref, before: Ref, w: Ref, pos: Ref, y: Ref) -> None:
    here = _tile(shape, x, before, w, pos)
    z = here.total()
    store(y.at[here.rows[:, None], here.lanes[None, :]], z * jax.nn.sigmoid(z) if silu else z, here.live())


def _backward_kernel(
    silu: bool, shape: tuple[int, int], x: Ref, before: Ref, dy: Ref, w: Ref, pos: Ref, dx: Ref, dw: Ref
) -> None:
    here, taps = _tile(shape, x, before, w, pos), w.shape[0] - 1

    def entering(at: _Tile) -> jax.Array:
        """The derivative by the sum of taps and bias."""
        d = tile(dy, at.rows, at.lanes, at.live()).astype(w.dtype)
        return d * slope(at.total()) if silu else d

    d = entering(here)
    total = here.weight(taps - 1) * d
    store(dw.at[taps, here.lanes], jnp.sum(d, 0), here.width)
    for j in range(taps):
        store(dw.at[taps - 1 - j, here.lanes], jnp.sum(d * here.tap(j), 0), here.width)
        if j > 0:
            later = here.later(j)
            total += here.weight(taps - 1 - j) * jnp.where(later.live() & later.near(j), entering(later), 0)
    store(dx.at[here.rows[:, None], here.lanes[None, :]], total, here.live())
