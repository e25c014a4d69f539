"""Which kernel runs a chunked scan on a machine, and how its arguments are made ready for it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from kernels.chunk_sizes import MOST
from kernels.chunked_gpu import chunked_scan_gpu
from kernels.chunked_tpu import chunked_scan_tpu
from kernels.normalised_chunk import State
from kernels.tiles import Arrays, Gates, Machine, accumulator

Kernel = Callable[..., tuple[Any, Any]]
KERNELS: dict[Machine, Kernel] = {"tpu": chunked_scan_tpu, "gpu": chunked_scan_gpu}


def kernel_on(machine: Machine, keys: int) -> Kernel | None:
    """That of a machine, if there is one: a GPU has none for more than MOST keys."""
    return None if machine == "gpu" and keys > MOST else KERNELS.get(machine)


def fused(
    kernel: Kernel,
    gates: Gates,
    x: Arrays,
    w: Arrays,
    handed: Arrays,
    keys: int,
    pos: jax.Array,
    state: jax.Array | None,
    sums: jax.Array | None = None,
    *,
    interpret: bool,
) -> tuple[Any, Any]:
    """What a kernel gives back: y in the dtype of x[0], and the last state (None without one).

    x [B, T, G, H, axis], w [G, H, axis], handed [B, T, G, H, K], or what broadcasts to them, x[0] in full; pos [T] or
    [B, T]. There is one decay per head where keys and queries are handed, else, where equations make them, one per key.
    Operands of products are in half precision if x[0] or any of what is handed is, or of x where nothing is handed;
    sums and states are in at least single precision. With a normaliser, sums are those of its keys [B, G, H, K], the
    last state is a `State`, and y, unless equations take the normaliser, a `Read`.
    """
    shape, acc = x[0].shape, accumulator(*x, *w, *handed)
    S: Any = _turned(state_before((keys, shape[-1]), shape, acc, pos, state))
    if gates.normalised:
        S = State(S, state_before((keys,), shape, acc, pos, sums))
    operands = x[0], *(handed or x[1:])
    halves = [z.dtype for z in operands if z.dtype.itemsize == 2]
    half = jnp.result_type(*(halves or operands))
    width = {"values": shape[-1], "keys": keys, "head": 1}
    x = tuple(_of_heads(z, shape, width[side]) for side, z in zip(gates.x_sides, x, strict=True))
    w = tuple(jnp.broadcast_to(z, (*shape[2:-1], width[side])) for side, z in zip(gates.w_sides, w, strict=True))
    handed = tuple(_of_heads(z, shape, keys).astype(half) for z in handed)
    y, S = kernel(gates, x, w, handed, jnp.broadcast_to(pos, shape[:2]), S, half=half, interpret=interpret)
    if state is None:
        return y, None
    return y, S._replace(S=_turned(S.S)) if gates.normalised else _turned(S)


def _turned(S: jax.Array) -> jax.Array:
    """A state as kernels have it, [V, K], or as others do, [K, V]."""
    return S.swapaxes(-2, -1)


def _of_heads(z: jax.Array, shape: tuple[int, ...], width: int) -> jax.Array:
    """All tokens of an input; heads in a row may have one between them."""
    groups, heads = z.shape[2:4]
    if groups < shape[2] and heads == shape[3] > 1:
        groups = shape[2]
    return jnp.broadcast_to(z, (*shape[:2], groups, heads, width))


def state_before(
    own: tuple[int, ...], shape: tuple[int, ...], acc: jnp.dtype, pos: jax.Array, state: jax.Array | None
) -> jax.Array:
    """The state before the first token, of these axes for each head; shape: that of the values."""
    if state is not None and pos.ndim == 2:
        return state.astype(acc)
    return jnp.zeros((shape[0], *shape[2:4], *own), acc)
