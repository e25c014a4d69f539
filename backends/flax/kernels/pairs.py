"""Pair programs that are not plain attention: blocks of queries against their keys, and rings of past keys.

(k, v), keys, state = remember((k, v), pos, state)

def program(rows: Rows) -> jax.Array:
    s = jnp.einsum("bqhd,bkhd->bhqk", rows.query_tokens(q), rows.key_tokens(k))
    p = rows.softmax(s, rows.window(256))  # [B, heads, Tq, Tk]
    return jnp.einsum("bhqk,bkhd->bqhd", p, rows.key_tokens(v))

y = over_rows(program, keys, before=255)  # [B, T, heads, dim]
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from kernels.attention import read_ring, write_ring

PARTS = 4  # of a long causal sequence without a window: part n reads only the keys before its end
Arrays = tuple[jax.Array, ...]


@dataclass(frozen=True)
class Keys:
    """Where the keys of a program lie: `count` tokens, the last T of them those at pos ([T] or [B, T]).

    In the order of time, or, if `ring` is its width, in the slots of a ring, which a single token is already in.
    """

    pos: jax.Array
    count: int
    ring: int | None = None


def remember(tensors: Arrays, pos: jax.Array, rings: Arrays | None) -> tuple[Arrays, Keys, Arrays | None]:
    """What a chunk of tokens can see of each tensor [B, T, *axes], [B, S, *axes]; where it lies; the rings after it.

    rings: one [B, W, *axes] for each tensor, all of one width, or None: the tokens see only one another.
    """
    time = pos.shape[-1]
    if rings is None:
        return tensors, Keys(pos, time), None
    width = rings[0].shape[1]
    after = tuple(write_ring(ring, x, pos) for ring, x in zip(rings, tensors, strict=True))
    if pos.ndim == 1:  # whole documents: the rings were empty
        return tensors, Keys(pos, time), after
    if time == 1:
        return after, Keys(pos, width, width), after
    past = (read_ring(ring, pos, width).astype(x.dtype) for ring, x in zip(rings, tensors, strict=True))
    seen = tuple(jnp.concatenate([old, x], 1) for old, x in zip(past, tensors, strict=True))
    return seen, Keys(pos, width + time), after


def over_rows(
    program: Callable[["Rows"], jax.Array],
    keys: Keys,
    *,
    before: int | None = None,
    after: int | None = 0,
    block: int = 128,
) -> jax.Array:
    """Run a program for blocks of queries and join its values [B, Tq, *axes] to [B, T, *axes].

    program: it may close over arrays, and runs again in the backward pass, so that the pairs of one block at a time
    are kept; blocks are of one size and traced once (the last one takes some queries of the one before it again).
    before, after: how many keys behind and ahead of a query can matter to it (None: all); a window of n is
    before = n - 1, a causal program has after = 0.
    """
    time = keys.pos.shape[-1]
    if keys.ring is not None or time <= block:
        return program(Rows(keys, 0, time, 0, keys.count))
    growing = before is None and after is not None
    part = -(-time // (PARTS * block)) * block if growing else time
    parts = []
    for first in range(0, time, part):
        end = min(first + part, time)
        stop = keys.count if after is None else min(keys.count, keys.count - time + end + after)
        parts.append(_blocks(program, keys, (first, end), stop, before, after, min(block, end - first)))
    return jnp.concatenate(parts, 1)


def _blocks(
    program: Callable[["Rows"], jax.Array],
    keys: Keys,
    queries: tuple[int, int],
    stop: int,
    before: int | None,
    after: int | None,
    block: int,
) -> jax.Array:
    """The values of the queries first to end, in blocks of one size; they need no keys from `stop` on."""
    first, end = queries
    reach = stop if before is None or after is None else min(stop, before + block + after)
    past = keys.count - keys.pos.shape[-1]

    @jax.checkpoint
    def rows(first: jax.Array) -> jax.Array:
        start = 0 if before is None else jnp.clip(past + first - before, 0, stop - reach)
        return program(Rows(keys, first, block, start, reach))

    count = -(-(end - first) // block)
    values = jax.lax.map(rows, jnp.minimum(first + jnp.arange(count) * block, end - block))  # [count, B, block, *axes]
    done = jnp.moveaxis(values[:-1], 0, 1).reshape(values.shape[1], -1, *values.shape[3:])
    return jnp.concatenate([done, values[-1][:, count * block - (end - first) :]], 1)


class Rows:
    """A block of queries against a range of keys.

    Pair values are [B, *axes, Tq, Tk]. Masks are [B or 1, Tq, Tk] and fit pair values with any axes; they may be joined
    with `&`, `|`, `~` and with comparisons of `queries` and `keys`. Masks speak of distance alone: `softmax` and the
    sums add that both tokens are of one document. A query without any key gets 0.
    """

    def __init__(self, keys: Keys, first: jax.Array | int, queries: int, start: jax.Array | int, reach: int) -> None:
        """The queries first, first + 1, ... and the keys start, start + 1, ...: so many of each."""
        pos = keys.pos if keys.pos.ndim == 2 else keys.pos[None]
        self._queries, self._keys = (first, queries), (start, reach)
        past = keys.count - pos.shape[1]
        self.query_pos = _slice(pos, *self._queries)
        if keys.ring is not None:
            behind = (pos - jnp.arange(keys.count)) % keys.ring  # [B, Tk]
            self.distance = behind[:, None]
            self.key_pos = pos - behind
        else:
            places = (past + first + jnp.arange(queries))[:, None]
            self.distance = (places - (start + jnp.arange(reach)))[None]
            earlier = pos[:, :1] + jnp.arange(-past, 0)
            self.key_pos = _slice(jnp.concatenate([earlier, pos], 1), *self._keys)
        later = jnp.where(self.distance >= 0, self.query_pos[..., None], self.key_pos[:, None])
        #: whether both are of one document: the later of the two is at least their distance into it
        self.together = jnp.abs(self.distance) <= later

    def query_tokens(self, x: jax.Array) -> jax.Array:
        """The tokens x [B, T, *axes] of the queries: [B, Tq, *axes]."""
        return _slice(x, *self._queries)

    def key_tokens(self, x: jax.Array) -> jax.Array:
        """The remembered tokens x [B, S, *axes] of the keys: [B, Tk, *axes]."""
        return _slice(x, *self._keys)

    def queries(self, x: jax.Array) -> jax.Array:
        """Tokens x [B, T, *axes] as a pair value that is constant along keys: [B, *axes, Tq, 1]."""
        return jnp.moveaxis(self.query_tokens(x), 1, -1)[..., None]

    def keys(self, x: jax.Array) -> jax.Array:
        """Remembered tokens x [B, S, *axes] as a pair value that is constant along queries: [B, *axes, 1, Tk]."""
        return jnp.moveaxis(self.key_tokens(x), 1, -1)[..., None, :]

    def everything(self) -> jax.Array:
        """Every key."""
        return jnp.ones_like(self.distance, bool)

    def causal(self) -> jax.Array:
        """The query itself and what came before it."""
        return self.distance >= 0

    def window(self, n: int | None) -> jax.Array:
        """The last n keys, the query itself included; None: all that came before."""
        return self.causal() if n is None else self.causal() & (self.distance < n)

    def near(self, n: int) -> jax.Array:
        """Up to n keys to either side."""
        return jnp.abs(self.distance) <= n

    def dilated(self, n: int, step: int) -> jax.Array:
        """Every step-th of the last n step keys, the query itself included."""
        return self.window(n * step) & (self.distance % step == 0)

    def prefix(self, n: int) -> jax.Array:
        """The first n keys of the document."""
        first = (self.key_pos < n)[:, None]
        return jnp.broadcast_to(first, (first.shape[0], *self.distance.shape[1:]))

    def softmax(self, scores: jax.Array, where: jax.Array | None = None) -> jax.Array:
        """The softmax over keys, computed in at least single precision, in the dtype of the scores; zero elsewhere."""
        wide = jnp.promote_types(scores.dtype, jnp.float32)
        seen = self._seen(scores, where)
        masked = jnp.where(seen, scores.astype(wide), -jnp.inf)
        top = jax.lax.stop_gradient(jnp.max(masked, -1, keepdims=True))
        p = jnp.exp(masked - jnp.where(top == -jnp.inf, 0, top))
        total = jnp.sum(p, -1, keepdims=True)
        return (p / jnp.where(total == 0, 1, total)).astype(scores.dtype)

    def select(self, x: jax.Array, where: jax.Array | None = None) -> jax.Array:
        """The pair value x inside the document and the mask, zero elsewhere."""
        return jnp.where(self._seen(x, where), x, 0)

    def sum(self, x: jax.Array, where: jax.Array | None = None) -> jax.Array:
        """[B, *axes, Tq, Tk] -> tokens [B, Tq, *axes]."""
        return jnp.moveaxis(jnp.sum(self.select(x, where), -1), -1, 1)

    def mean(self, x: jax.Array, where: jax.Array | None = None) -> jax.Array:
        """[B, *axes, Tq, Tk] -> tokens [B, Tq, *axes]."""
        count = jnp.sum(jnp.broadcast_to(self._seen(x, where), x.shape), -1)
        return jnp.moveaxis(jnp.sum(self.select(x, where), -1) / jnp.maximum(count, 1), -1, 1).astype(x.dtype)

    def max(self, x: jax.Array, where: jax.Array | None = None) -> jax.Array:
        """[B, *axes, Tq, Tk] -> tokens [B, Tq, *axes]."""
        top = jnp.max(jnp.where(self._seen(x, where), x, -jnp.inf), -1)
        return jnp.moveaxis(jnp.where(top == -jnp.inf, 0, top), -1, 1)

    def min(self, x: jax.Array, where: jax.Array | None = None) -> jax.Array:
        """[B, *axes, Tq, Tk] -> tokens [B, Tq, *axes]."""
        return -self.max(-x, where)

    def _seen(self, x: jax.Array, where: jax.Array | None) -> jax.Array:
        """The document and the mask, with an axis of size one for each feature axis of x."""
        between = (1,) * (x.ndim - 3)
        together = self.together.reshape(len(self.together), *between, *self.together.shape[1:])
        if where is None:
            return together
        if where.ndim == 3:
            where = where.reshape(len(where), *between, *where.shape[1:])
        return together & where


def _slice(x: jax.Array, start: jax.Array | int, size: int) -> jax.Array:
    """`size` tokens of x [B, T, *axes] from `start` on."""
    return x if size == x.shape[1] else jax.lax.dynamic_slice_in_dim(x, start, size, 1)
