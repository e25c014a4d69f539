"""The same ways in JAX."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.projects import project

Prefix = Callable[[jax.Array, jax.Array, bool], jax.Array]
Arrays = tuple[jax.Array, ...]
SMALL = {"width": 16, "depth": 1, "vocab": 16}
MADE = project("mamba2", {**SMALL, "head": 16, "state": 8}, "flax")
DIAGONAL = project("s4d", {}, "flax")
SELECTIVE = project("mamba", {**SMALL, "state": 2}, "flax")
STATES, HEADS, SIDE = 16, 2, 64
STEPS = 8, 128
CHUNKS = 16, 32, 64, 128, 256
KEY_CHUNKS = 2, 4, 8, 16, 32
PIECE = 64  # tokens of a block


@dataclass(frozen=True)
class Way:
    """A strategy: a function of the inputs, and what has to be changed in archc's kernels while it is traced."""

    name: str
    run: Callable[..., jax.Array]
    longest: int = 1 << 30  # tokens beyond which it takes too much memory or time to be of interest
    changed: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)


def training(way: Way, inputs: Arrays) -> Callable[[], object]:
    """Forward and backward once, compiled."""

    def both(*x: jax.Array) -> Any:
        y, pull = jax.vjp(way.run, *x)
        return pull(y)

    return _compiled(way, both, inputs)


def forward(way: Way, inputs: Arrays) -> Callable[[], object]:
    """The value alone, compiled."""
    return _compiled(way, way.run, inputs)


def _compiled(way: Way, function: Callable[..., Any], inputs: Arrays) -> Callable[[], object]:
    with way.changed():
        made = jax.jit(lambda *x: function(*x)).lower(*inputs).compile()
    return lambda: jax.block_until_ready(made(*inputs))


def ways(kind: str) -> Iterator[Way]:
    """The strategies of a class, archc's choice first."""
    match kind:
        case "diagonal":
            yield Way("archc", _own)
            yield Way("linear", _with_gradient(_linear))
            yield Way("blocked", _with_gradient(_blocked))
            yield Way("associative", _with_gradient(_tree))
        case "constant":
            yield Way("archc", _own)
            yield Way("linear", lambda a, u: _with_gradient(_linear)(jnp.broadcast_to(a, u.shape), u))
            yield Way("blocked", lambda a, u: _with_gradient(_blocked)(jnp.broadcast_to(a, u.shape), u))
            yield Way("associative", lambda a, u: _with_gradient(_tree)(jnp.broadcast_to(a, u.shape), u))
            yield Way("convolution", _convolution)
        case "read":
            yield Way("archc", lambda *x: _read(*x, jnp.arange(x[2].shape[1])))
            yield Way("state by state", lambda *x: _read(*x, jnp.arange(x[2].shape[1])[None]), longest=8192)
        case "selective":
            module = SELECTIVE.module("kernels.selective_scan")
            yield Way("archc", _selective)
            for steps in STEPS:
                yield Way(f"blocks of {steps}", _selective, changed=partial(patch.object, module, "STEPS", steps))
            yield Way("associative", _selective_tree, longest=2048)
        case "chunked":
            yield from _in_chunks(_chunked, CHUNKS)
            yield Way("state by state", _outer, longest=2048)
        case "keys":
            yield from _in_chunks(_chunked_keys, KEY_CHUNKS)


def _in_chunks(run: Callable[..., jax.Array], chunks: Sequence[int]) -> Iterator[Way]:
    """In chunks of archc's length, and of others."""
    module = MADE.module("kernels.chunked_scan")
    yield Way("archc", run)
    for chunk in chunks:
        lengths = dict.fromkeys(("chunk_length", "key_chunk_length"), lambda *_, n=chunk: n)
        yield Way(f"chunks of {chunk}", run, changed=partial(patch.multiple, module, **lengths))


def draw(kind: str, time: int, channels: int) -> Arrays:
    """Single precision; decays that forget within 10 to 1,000 tokens."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    def rates(*shape: int) -> jax.Array:
        return jnp.asarray(-np.exp(rng.uniform(-6.9, -2.3, shape)), jnp.float32)

    match kind:
        case "diagonal":
            return jnp.exp(rates(1, time, channels)), normal(1, time, channels)
        case "constant":
            return jnp.exp(rates(channels)), normal(1, time, channels)
        case "read":
            states = channels, STATES
            return rates(*states), normal(*states), normal(1, time, channels), normal(*states), normal(*states)
        case "selective":
            tokens = 1, time, STATES
            return (
                -rates(1, time, channels),
                rates(channels, STATES),
                normal(1, time, channels),
                normal(*tokens),
                normal(*tokens),
            )
        case _:
            k, v, q = (normal(1, time, 1, HEADS, SIDE) for _ in range(3))
            keys = (SIDE,) if kind == "keys" else ()
            return rates(1, time, 1, HEADS, *keys), k / SIDE, v, q


def _pos(x: jax.Array) -> jax.Array:
    return jnp.arange(x.shape[1])


def _own(a: jax.Array, u: jax.Array) -> jax.Array:
    y: jax.Array = DIAGONAL.module("kernels.scan").scan(a, u, _pos(u))[0]
    return y


def _selective(dt: jax.Array, A: jax.Array, x: jax.Array, B: jax.Array, C: jax.Array) -> jax.Array:
    y: jax.Array = SELECTIVE.module("kernels.selective_scan").selective_scan(dt, A, x, B, C, _pos(x))[0]
    return y


def _selective_tree(dt: jax.Array, A: jax.Array, x: jax.Array, B: jax.Array, C: jax.Array) -> jax.Array:
    a, u = jnp.exp(dt[..., None] * A), x[..., None] * B[:, :, None]
    return (_with_gradient(_tree)(a, u) * C[:, :, None]).sum(-1)


def _chunked(log_a: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array) -> jax.Array:
    y: jax.Array = MADE.module("kernels.chunked_scan").chunked_scan(log_a, k, v, q, _pos(v))[0]
    return y


def _chunked_keys(log_a: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array) -> jax.Array:
    y: jax.Array = MADE.module("kernels.chunked_scan").chunked_key_scan(log_a, k, v, q, _pos(v))[0]
    return y


def _outer(log_a: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array) -> jax.Array:
    """Every state in memory."""
    u = k[..., None] * v[..., None, :]
    return (_own(jnp.broadcast_to(jnp.exp(log_a)[..., None, None], u.shape), u) * q[..., None]).sum(-2)


def _with_gradient(prefix: Prefix) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A scan from one that has no gradient: the adjoint runs backwards, with the decay of the token after."""

    @jax.custom_vjp
    def scan(a: jax.Array, u: jax.Array) -> jax.Array:
        return prefix(a, u, False)

    def keep(a: jax.Array, u: jax.Array) -> tuple[jax.Array, Arrays]:
        h = prefix(a, u, False)
        return h, (a, h)

    def back(saved: Arrays, dh: jax.Array) -> Arrays:
        a, h = saved
        g = prefix(jnp.concatenate([a[:, 1:], jnp.zeros_like(a[:, :1])], 1), dh, True)
        return jnp.concatenate([jnp.zeros_like(h[:, :1]), g[:, 1:] * h[:, :-1]], 1), g

    scan.defvjp(keep, back)
    return scan


def _linear(a: jax.Array, u: jax.Array, reverse: bool) -> jax.Array:
    """The loop that JAX has for this, over arrays with time in front."""

    def step(h: jax.Array, now: Arrays) -> tuple[jax.Array, jax.Array]:
        h = now[0] * h + now[1]
        return h, h

    turned = jnp.moveaxis(a, 1, 0), jnp.moveaxis(u, 1, 0)
    return jnp.moveaxis(jax.lax.scan(step, jnp.zeros_like(u[:, 0]), turned, reverse=reverse)[1], 0, 1)


def _blocked(a: jax.Array, u: jax.Array, reverse: bool) -> jax.Array:
    """Blocks of time side by side, from zero; then what enters each; then what that adds."""
    time = u.shape[1]
    more = [(0, 0), (0, -time % PIECE)] + [(0, 0)] * (u.ndim - 2)
    if reverse:
        more[1] = more[1][::-1]
    shape = u.shape[0], -1, PIECE, *u.shape[2:]
    a, u = jnp.pad(a, more).reshape(shape), jnp.pad(u, more).reshape(shape)
    flat = a.shape[0] * a.shape[1], PIECE, *a.shape[3:]
    inside = _linear(a.reshape(flat), u.reshape(flat), reverse).reshape(a.shape)
    decays = jnp.flip(jnp.cumprod(jnp.flip(a, 2), 2), 2) if reverse else jnp.cumprod(a, 2)
    last = 0 if reverse else -1
    ends = _linear(decays[:, :, last], inside[:, :, last], reverse)
    zero = jnp.zeros_like(ends[:, :1])
    entering = jnp.concatenate([ends[:, 1:], zero] if reverse else [zero, ends[:, :-1]], 1)
    whole = (inside + decays * entering[:, :, None]).reshape(u.shape[0], -1, *u.shape[3:])
    return whole[:, -time:] if reverse else whole[:, :time]


def _tree(a: jax.Array, u: jax.Array, reverse: bool) -> jax.Array:
    def after(first: Arrays, then: Arrays) -> Arrays:
        return first[0] * then[0], then[0] * first[1] + then[1]

    h: jax.Array = jax.lax.associative_scan(after, (a, u), reverse=reverse, axis=1)[1]
    return h


def _read(
    rate: jax.Array, phase: jax.Array, u: jax.Array, real: jax.Array, imaginary: jax.Array, pos: jax.Array
) -> jax.Array:
    """As archc runs whole documents, or packed ones where positions are those of each sequence."""
    run = DIAGONAL.module("kernels.long_convolution").long_convolution
    found: jax.Array = run(jnp.exp(rate + 1j * phase), u, real + 1j * imaginary, pos)[0].real
    return found


def _convolution(a: jax.Array, u: jax.Array) -> jax.Array:
    """With the powers of a decay that is the same for every token, by Fourier transforms of twice the length."""
    time = u.shape[1]
    powers = jnp.exp(jnp.arange(time)[:, None] * jnp.log(a))
    product = jnp.fft.rfft(u, 2 * time, 1) * jnp.fft.rfft(powers, 2 * time, 0)
    return jnp.fft.irfft(product, 2 * time, 1)[:, :time]


WAYS: Mapping[str, tuple[Way, ...]] = {
    kind: tuple(ways(kind)) for kind in ("diagonal", "constant", "read", "selective", "chunked", "keys")
}
