"""The causal convolution on a GPU, through Pallas and Triton: a program has some tokens of some channels.

Taps are read again for each token that they reach, from the cache.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from kernels.blocks_gpu import Ref, Refs, load, power, store, tile
from kernels.taps import Work, before_gradient, rows
from kernels.tiles import Arrays, array, flat, traffic, up

TIME = 32  # tokens of a program
CHANNELS = 64
MOST = 32  # taps, each of which is code
WARPS = plgpu.CompilerParams(num_warps=4, num_stages=1)


def causal_conv_gpu(
    work: Work,
    x: jax.Array,
    w: jax.Array,
    pos: jax.Array,
    before: jax.Array,
    bias: jax.Array | None,
    tokens: Arrays,
    weights: Arrays,
) -> jax.Array:
    """y [B, T, *axes] in the dtype of x; w [taps, *axes], pos [T] or [B, T], before [B, taps - 1, *axes], bias [*axes].

    tokens: [B, T, *axes], weights: what broadcasts to [*axes]. There are at most MOST taps.
    """
    places = pos.astype(jnp.int32).reshape(-1, x.shape[1])
    more = tuple(flat(z, 2) for z in tokens)
    return _run(work, flat(x, 2), more, rows(x, w, bias, weights), places, flat(before, 2)).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(work: Work, x: jax.Array, tokens: Arrays, w: jax.Array, pos: jax.Array, before: jax.Array) -> jax.Array:
    specs = _Specs(x, w, pos, work.taps(w))
    y: jax.Array = pl.pallas_call(
        functools.partial(_forward_kernel, work, specs.shape),
        grid=specs.grid,
        in_specs=[specs.token, specs.before, tuple(specs.token for _ in tokens), specs.weight, specs.pos],
        out_specs=specs.token,
        out_shape=array(x.shape, x.dtype),
        compiler_params=WARPS,
        cost_estimate=work.cost(x, w, len(tokens), traffic(x, x, *tokens, w, pos)),
        interpret=work.interpret,
        name="causal_conv",
    )(x, _some(before), tokens, w, pos)
    return y


Saved = tuple[jax.Array, Arrays, jax.Array, jax.Array, jax.Array]


def _save(
    work: Work, x: jax.Array, tokens: Arrays, w: jax.Array, pos: jax.Array, before: jax.Array
) -> tuple[jax.Array, Saved]:
    return _run(work, x, tokens, w, pos, before), (x, tokens, w, pos, before)


def _backward(work: Work, saved: Saved, dy: jax.Array) -> tuple[jax.Array, Arrays, jax.Array, None, jax.Array]:
    x, tokens, w, pos, before = saved
    specs, taps = _Specs(x, w, pos, work.taps(w)), work.taps(w)
    sums = array((x.shape[0], specs.grid[1], *w.shape), w.dtype)
    more = tuple(specs.token for _ in tokens)
    moved = traffic(x, x, dy, *tokens, *tokens, w, pos, sums)
    dx, dtokens, dw = pl.pallas_call(
        functools.partial(_backward_kernel, work, specs.shape),
        grid=specs.grid,
        in_specs=[specs.token, specs.before, more, specs.token, specs.weight, specs.pos],
        out_specs=[specs.token, more, specs.sum],
        out_shape=[array(x.shape, x.dtype), tuple(array(z.shape, z.dtype) for z in tokens), sums],
        compiler_params=WARPS,
        cost_estimate=work.cost(x, w, len(tokens), moved, back=taps),  # the sum of each token that a token reaches
        interpret=work.interpret,
        name="causal_conv_gradient",
    )(x, _some(before), tokens, dy, w, pos)
    return dx, dtokens, dw.sum((0, 1)), None, before_gradient(work, x, tokens, w, pos, before, dy)


_run.defvjp(_save, _backward)


def _some(before: jax.Array) -> jax.Array:
    """The inputs before the first, of which a single tap has none; an array must not be empty."""
    return jnp.pad(before, ((0, 0), (0, 1 if before.shape[1] == 0 else 0), (0, 0)))


class _Specs:
    """What a program sees of the arrays of a convolution: all of a sequence. The grid is batch, time, channels."""

    def __init__(self, x: jax.Array, w: jax.Array, pos: jax.Array, taps: int) -> None:
        (batch, time, channels), past, shared = x.shape, taps - 1, pos.shape[0] == 1
        self.shape = min(TIME, power(time)), min(CHANNELS, power(channels))
        self.grid = (batch, *(up(size, part) // part for size, part in zip((time, channels), self.shape, strict=True)))
        self.token = pl.BlockSpec((None, time, channels), lambda b, t, c: (b, 0, 0))
        self.before = pl.BlockSpec((None, max(past, 1), channels), lambda b, t, c: (b, 0, 0))
        self.weight = pl.BlockSpec(w.shape, lambda b, t, c: (0, 0))
        self.sum = pl.BlockSpec((None, None, *w.shape), lambda b, t, c: (b, t, 0, 0))
        self.pos = pl.BlockSpec((None, time), lambda b, t, c: (0 if shared else b, 0))


class _Tile(NamedTuple):
    """Some tokens of some channels of a sequence: their places, which of them there are, and what they read."""

    taps: int
    behind: int
    rows: jax.Array
    lanes: jax.Array
    width: jax.Array
    x: Ref
    before: Ref
    more: Refs
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
        old = tile(self.before, rows + self.taps - 1, self.lanes, seen & (rows < 0)[:, None])
        return value + old.astype(self.w.dtype)

    def total(self) -> jax.Array:
        """The sum of taps and bias."""
        last = self.taps - 1
        return sum((self.weight(last - j) * self.tap(j) for j in range(self.taps)), start=self.weight(self.taps))

    def tokens(self) -> Arrays:
        """What is read of these tokens behind the sum."""
        return tuple(tile(z, self.rows, self.lanes, self.live()).astype(self.w.dtype) for z in self.more)

    def weights(self) -> Arrays:
        """What is read of these channels there."""
        return tuple(self.weight(self.taps + 1 + i) for i in range(self.behind))


def _tile(work: Work, shape: tuple[int, int], x: Ref, before: Ref, more: Refs, w: Ref, pos: Ref) -> _Tile:
    rows, lanes = (
        pl.program_id(axis) * size + jnp.arange(size, dtype=jnp.int32) for axis, size in zip((1, 2), shape, strict=True)
    )
    return _Tile(work.taps(w), work.weights, rows, lanes, lanes < x.shape[1], x, before, more, w, pos)


def _forward_kernel(
    work: Work, shape: tuple[int, int], x: Ref, before: Ref, more: Refs, w: Ref, pos: Ref, y: Ref
) -> None:
    here = _tile(work, shape, x, before, more, w, pos)
    result = work.result(here.total(), here.tokens(), here.weights())
    store(y.at[here.rows[:, None], here.lanes[None, :]], result, here.live())


def _backward_kernel(
    work: Work,
    shape: tuple[int, int],
    x: Ref,
    before: Ref,
    more: Refs,
    dy: Ref,
    w: Ref,
    pos: Ref,
    dx: Ref,
    dmore: Refs,
    dw: Ref,
) -> None:
    here, taps = _tile(work, shape, x, before, more, w, pos), work.taps(w)

    def entering(at: _Tile) -> tuple[jax.Array, Arrays, Arrays]:
        """The derivatives by the sum of taps and bias, by what is read behind it of tokens, and of channels."""
        d = tile(dy, at.rows, at.lanes, at.live()).astype(w.dtype)
        if work.activation is None:
            return d, (), ()
        found, of_tokens, of_weights = work.activation.grad(at.total(), at.tokens(), at.weights(), d)
        return jnp.where(at.live(), found, 0), of_tokens, tuple(jnp.where(at.live(), z, 0) for z in of_weights)

    d, of_tokens, of_weights = entering(here)
    total = here.weight(taps - 1) * d
    for row, value in enumerate((d, *of_weights), taps):
        store(dw.at[row, here.lanes], jnp.sum(value, 0), here.width)
    for z, value in zip(dmore, of_tokens, strict=True):
        store(z.at[here.rows[:, None], here.lanes[None, :]], jnp.broadcast_to(value, shape), here.live())
    for j in range(taps):
        store(dw.at[taps - 1 - j, here.lanes], jnp.sum(d * here.tap(j), 0), here.width)
        if j > 0:
            later = here.later(j)
            total += here.weight(taps - 1 - j) * jnp.where(later.live() & later.near(j), entering(later)[0], 0)
    store(dx.at[here.rows[:, None], here.lanes[None, :]], total, here.live())
