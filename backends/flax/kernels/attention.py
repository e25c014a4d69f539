"""Softmax attention: grouped queries, windows, packed documents and rings of keys, in blocks of queries.

No more than one block of scores exists at a time, forward and backward; a window reads only the keys that it needs.
Whether a query sees a key follows from their distance and two numbers of the query, how many tokens of its document lie
before it and how many of them behind it count (none, if it is causal): -ahead <= distance <= pos (< window).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Rings = tuple[jax.Array, jax.Array]
BLOCK = 256  # queries at a time, fewer for a short window
PARTS = 4  # of a long sequence without a window: part n reads only the keys before its end


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    pos: jax.Array,
    state: Rings | None = None,
    *,
    window: int | None = None,
    scale: float,
) -> tuple[jax.Array, Rings | None]:
    """y[t] = sum over s of softmax(scale q[t] . k[s]) v[s], over the keys of the same document that are not later.

    q [B, T, G, M, D] (M query heads share key head G), k [B, T, G, D], v [B, T, G, E], pos [T] or [B, T]. `window`
    keeps the n last keys, the token itself included. state: rings of keys and values [B, W, G, D], [B, W, G, E]; slot
    p mod W holds the token of position p, and a query sees W tokens at most. Softmax in at least single precision; a
    query without any key gives 0. Returns y [B, T, G, M, E] in the dtype of v and the new rings (None without rings).
    """
    if state is None:
        return _in_parts(q, k, v, pos, window, scale), None
    width = state[0].shape[1]
    reach = width if window is None else min(window, width)
    after = (write_ring(state[0], k, pos), write_ring(state[1], v, pos))
    if pos.ndim == 1:  # whole documents: the rings were empty
        return _in_parts(q, k, v, pos, reach, scale), after
    if q.shape[1] == 1:
        distance = (pos[:, :, None] - jnp.arange(width)) % width
        seen = (distance <= pos[:, :, None]) & (distance < reach)
        return _attend(q, *after, seen, scale), after
    keys, values = (read_ring(ring, pos, reach - 1).astype(new.dtype) for ring, new in zip(state, (k, v), strict=True))
    keys, values = jnp.concatenate([keys, k], 1), jnp.concatenate([values, v], 1)
    return _in_parts(q, keys, values, pos, reach, scale), after


def bidirectional_attention(q: jax.Array, k: jax.Array, v: jax.Array, pos: jax.Array, *, scale: float) -> jax.Array:
    """y[t] = sum over s of softmax(scale q[t] . k[s]) v[s], over all keys of the document, later ones too.

    Shapes are those of `attention`; y [B, T, G, M, E] is zero on padding.
    """
    return _in_parts(q, k, v, pos, None, scale, _ahead(pos))


def _ahead(pos: jax.Array) -> jax.Array:
    """How many tokens [T] or [B, T] of a document come after each of its tokens; of padding less than none."""
    time = pos.shape[-1]
    place = jnp.arange(time)
    begins = jnp.pad(pos[..., 1:] != pos[..., :-1] + 1, [(0, 0)] * (pos.ndim - 1) + [(0, 1)], constant_values=True)
    last = jax.lax.cummin(jnp.where(begins, place, time), axis=pos.ndim - 1, reverse=True)
    return jnp.where(pos < 0, -time, last - place)


def read_ring(ring: jax.Array, pos: jax.Array, count: int) -> jax.Array:
    """The tokens at the `count` <= W positions before the chunk at pos [B, T], oldest first: [B, count, *axes]."""
    slots = (pos[:, :1] + jnp.arange(-count, 0)) % ring.shape[1]
    return jnp.take_along_axis(ring, _align(slots, ring.ndim), axis=1)


def write_ring(ring: jax.Array, x: jax.Array, pos: jax.Array) -> jax.Array:
    """The ring [B, W, *axes] with the last tokens of x [B, T, *axes] at slot `position mod W`.

    Slots are counted back from the last position; tokens of earlier documents land in slots that are never seen.
    """
    width, time = ring.shape[1], x.shape[1]
    if time == 1:
        slot = jnp.broadcast_to(pos[..., 0] % width, ring.shape[:1])
        return ring.at[jnp.arange(ring.shape[0]), slot].set(x[:, 0].astype(ring.dtype))
    back = (pos[..., -1:] - jnp.arange(width)) % width  # how far the token of a slot lies before the last one
    place = _align(jnp.broadcast_to(time - 1 - back, ring.shape[:2]), ring.ndim)
    written = jnp.take_along_axis(x.astype(ring.dtype), jnp.maximum(place, 0), axis=1)
    return jnp.where(place >= 0, written, ring)


def _align(x: jax.Array, ndim: int) -> jax.Array:
    return x.reshape(x.shape + (1,) * (ndim - x.ndim))


def _in_parts(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    pos: jax.Array,
    window: int | None,
    scale: float,
    ahead: jax.Array | None = None,
) -> jax.Array:
    """Attention to keys [B, S, ...] of which the last T belong to the queries [B, T, ...]; ahead: None where causal."""
    time, old = q.shape[1], k.shape[1] - q.shape[1]
    window = None if window is None or window >= old + time else window
    if time <= BLOCK:
        y: jax.Array = jax.checkpoint(partial(_attend, scale=scale))(
            q, k, v, _seen(pos, ahead, old, 0, k.shape[1], window)
        )
        return y
    if ahead is not None or window is not None:
        return _in_blocks(q, k, v, pos, ahead, window, scale)
    part = -(-time // (PARTS * BLOCK)) * BLOCK
    ends = [(i, min(i + part, time)) for i in range(0, time, part)]
    parts = [_in_blocks(q[:, i:j], k[:, : old + j], v[:, : old + j], pos[..., i:j], None, None, scale) for i, j in ends]
    return jnp.concatenate(parts, axis=1)


def _seen(
    pos: jax.Array,
    ahead: jax.Array | None,
    first: jax.Array | int,
    start: jax.Array | int,
    keys: int,
    window: int | None,
) -> jax.Array:
    """[B or 1, T, keys]: which keys start, start + 1, ... the queries at first, first + 1, ... see."""
    pos, later = _rows(pos), 0 if ahead is None else _rows(ahead)[:, :, None]
    distance = (first + jnp.arange(pos.shape[1]))[:, None] - (start + jnp.arange(keys))
    seen = (distance >= -later) & (distance <= pos[:, :, None])
    return seen if window is None else seen & (distance < window)


def _rows(x: jax.Array) -> jax.Array:
    """[T] as [1, T]: the same for every sequence."""
    return x[None] if x.ndim == 1 else x


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array, scale: float) -> jax.Array:
    """Softmax attention of all the queries to all the keys that are `seen` [B or 1, T, S]."""
    acc = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("btgmd,bsgd->bgmts", q, k.astype(q.dtype), preferred_element_type=acc) * scale
    scores = jnp.where(seen[:, None, None], scores, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.max(scores, -1, keepdims=True))
    p = jnp.exp(scores - jnp.where(top == -jnp.inf, 0, top))
    total = jnp.sum(p, -1, keepdims=True)
    p = p / jnp.where(total == 0, 1, total)
    y = jnp.einsum("bgmts,bsge->btgme", p.astype(v.dtype), v, preferred_element_type=acc)
    return y.astype(v.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _in_blocks(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    pos: jax.Array,
    ahead: jax.Array | None,
    window: int | None,
    scale: float,
) -> jax.Array:
    def block(_: None, queries: tuple[Any, ...]) -> tuple[None, jax.Array]:
        n, q, pos, ahead = queries
        start, seen = _reach(n, pos, ahead, k.shape[1] - time, time, window)
        keys, values = (jax.lax.dynamic_slice_in_dim(x, start, seen.shape[-1], 1) for x in (k, v))
        return None, _attend(q, keys, values, seen, scale)

    time = q.shape[1]
    _, y = jax.lax.scan(block, None, _cut(_size(window), q, pos, ahead))
    return _join(y, time)


def _in_blocks_forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    pos: jax.Array,
    ahead: jax.Array | None,
    window: int | None,
    scale: float,
) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
    return _in_blocks(q, k, v, pos, ahead, window, scale), (q, k, v, pos, ahead)


def _in_blocks_backward(
    window: int | None, scale: float, saved: tuple[jax.Array, ...], dy: jax.Array
) -> tuple[jax.Array | None, ...]:
    """Each block is computed again; the gradients of its keys are added in place."""
    q, k, v, pos, ahead = saved
    time = q.shape[1]

    def block(sums: Rings, queries: tuple[Any, ...]) -> tuple[Rings, jax.Array]:
        n, q, pos, ahead, dy = queries
        start, seen = _reach(n, pos, ahead, k.shape[1] - time, time, window)
        near = tuple(jax.lax.dynamic_slice_in_dim(x, start, seen.shape[-1], 1) for x in (k, v))
        _, pull = jax.vjp(lambda q, k, v: _attend(q, k, v, seen, scale), q, *near)
        dq, *grads = pull(dy)
        return (_add_at(start, sums[0], grads[0]), _add_at(start, sums[1], grads[1])), dq

    acc = jnp.promote_types(q.dtype, jnp.float32)
    (dk, dv), dq = jax.lax.scan(
        block, (jnp.zeros(k.shape, acc), jnp.zeros(v.shape, acc)), _cut(_size(window), q, pos, ahead, dy)
    )
    return _join(dq, time), dk.astype(k.dtype), dv.astype(v.dtype), None, None


_in_blocks.defvjp(_in_blocks_forward, _in_blocks_backward)


def _size(window: int | None) -> int:
    """Queries in a block: about as many as a window has keys, so that not much more than needed is computed."""
    return BLOCK if window is None else min(BLOCK, -(-window // 64) * 64)


def _reach(
    n: jax.Array, pos: jax.Array, ahead: jax.Array | None, old: int, time: int, window: int | None
) -> tuple[jax.Array, jax.Array]:
    """Where the keys of block n start, and which of them its queries see."""
    size = _size(window)
    keys = old + time if window is None else min(old + time, size + window - 1)
    first = old + n * size
    start = jnp.clip(first + size - keys, 0, old + time - keys)
    return start, _seen(pos, ahead, first, start, keys, window)


def _cut(size: int, q: jax.Array, pos: jax.Array, ahead: jax.Array | None, *more: jax.Array) -> tuple[Any, ...]:
    """Block numbers, and arrays with a time axis cut into blocks [n, B, size, ...]; the last block is filled up."""
    count = -(-q.shape[1] // size)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, count * size - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)

    of_tokens = None if ahead is None else cut(_rows(ahead))
    return jnp.arange(count), cut(q), cut(_rows(pos)), of_tokens, *(cut(x) for x in more)


def _join(blocks: jax.Array, time: int) -> jax.Array:
    y = jnp.moveaxis(blocks, 0, 1)
    return y.reshape(y.shape[0], -1, *y.shape[3:])[:, :time]


def _add_at(start: jax.Array, total: jax.Array, x: jax.Array) -> jax.Array:
    """Adds x to the slice of `total` that begins at `start`, along time."""
    x = x.astype(total.dtype) + jax.lax.dynamic_slice_in_dim(total, start, x.shape[1], 1)
    return jax.lax.dynamic_update_slice_in_dim(total, x, start, 1)
