"""Pair programs in which a query sees only the keys of its own bucket: tokens in the order of buckets, tile by tile.

def program(rows, same, q, k, v):
    s = jnp.einsum("bqhd,bkhd->bhqk", rows.query_tokens(q), rows.key_tokens(k))
    p = rows.softmax(s, rows.causal()[..., None, :, :] & same)
    return jnp.einsum("bhqk,bkhd->bqhd", p, rows.key_tokens(v))

y = over_buckets(program, keys, (bucket, bucket_keys), (q,), (k, v), rounds=True)  # [B, T, heads, dim]

Sorted by bucket (before that by document, after that by time), the keys of a tile of queries lie in the few tiles that
its buckets reach into. All of them are visited, however uneven buckets are; no pair is kept.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from kernels.order import Order, order_of
from kernels.pairs import Keys, Rows, over_rows

Program = Callable[..., jax.Array]
Arrays = tuple[jax.Array, ...]
Sums = tuple[jax.Array, jax.Array, jax.Array]


def over_buckets(
    program: Program,
    keys: Keys,
    buckets: tuple[jax.Array, jax.Array],
    queries: Arrays,
    tokens: Arrays,
    *,
    rounds: bool = False,
    before: int | None = None,
    after: int | None = 0,
    block: int = 64,
    short: int | None = None,
) -> jax.Array:
    """The values [B, T, *lanes, *axes] of a program that sees no pair outside of `same`.

    program: `(rows, same, *queries, *tokens) -> value` with one softmax over keys, which the value is linear in; no
    other names of its are arrays that want a gradient. buckets: whole numbers of each query [B, T, *lanes] and key [B,
    S, *lanes], or of several `rounds`, the last axis: two tokens meet where they are equal in one of them. queries [B,
    T, *lanes, *axes], tokens [B, S, *lanes, *axes]: what the program reads of queries and of keys. It mixes nothing
    between lanes, and runs with lanes of size one. `same` [B, *lanes, Tq, Tk]: whether two tokens meet. before, after:
    as of `over_rows`, which runs up to `short` tokens (None: four tiles for each round, as long as sorting takes) and
    what continues a sequence.
    """
    if not rounds:
        buckets = (buckets[0][..., None], buckets[1][..., None])
    (codes, others), time = buckets, keys.pos.shape[-1]
    short = 4 * block * codes.shape[-1] if short is None else short
    if keys.ring is not None or keys.count != time or time <= short:

        def dense(rows: Rows) -> jax.Array:
            same = (rows.queries(codes) == rows.keys(others)).any(-3)
            return program(rows, same, *queries, *tokens)

        return over_rows(dense, keys, before=before, after=after)
    batch, lanes = len(codes), codes.shape[2:-1]
    folded = _folded(codes, lanes, 0)
    pos = jnp.repeat(jnp.broadcast_to(keys.pos, (batch, time)), len(folded) // batch, 0)
    orders = jax.vmap(partial(order_of, folded, pos, block, after != 0))(jnp.arange(codes.shape[-1]))
    problem = _Problem(program, len(lanes), len(queries))
    y = _sorted(problem, orders, tuple(_folded(x, lanes, len(lanes)) for x in (*queries, *tokens)))
    return jnp.moveaxis(y.reshape(batch, *lanes, time, *y.shape[2 + len(lanes) :]), 1 + len(lanes), 1)


def _folded(x: jax.Array, lanes: Sequence[int], kept: int) -> jax.Array:
    """[B, T, *lanes, *axes] -> [B lanes, T, *axes], with so many axes of size one before the axes."""
    time, axes = x.shape[1], x.shape[2 + len(lanes) :]
    return jnp.moveaxis(x, 1, 1 + len(lanes)).reshape(-1, time, *(1,) * kept, *axes)


class Tile(Rows):  # type: ignore[misc]
    """Tiles of queries against tiles of keys, [tiles, ...]: what a program knows of them, and its softmax in parts.

    The softmax divides by nothing: it takes out the largest score, or `known` [tiles, *axes, Tq], and notes what it
    took out as `top` and the sums as `total`.
    """

    def __init__(self, order: Order, queries: jax.Array, keys: jax.Array, known: jax.Array | None = None) -> None:
        self.distance = order.time[queries][..., None] - order.time[keys][:, None]
        self.query_pos, self.key_pos = order.pos[queries], order.pos[keys]
        later = jnp.where(self.distance >= 0, self.query_pos[..., None], self.key_pos[:, None])
        self.together = jnp.abs(self.distance) <= later
        self.known = known

    def query_tokens(self, x: jax.Array) -> jax.Array:
        """What is handed over is of these queries alone."""
        return x

    def key_tokens(self, x: jax.Array) -> jax.Array:
        """What is handed over is of these keys alone."""
        return x

    def softmax(self, scores: jax.Array, where: jax.Array | None = None) -> jax.Array:
        """exp(scores - top) in the dtype of the scores; zero outside of the document and the mask."""
        wide = jnp.promote_types(scores.dtype, jnp.float32)
        seen = self._seen(scores, where)
        masked = jnp.where(seen, scores.astype(wide), -jnp.inf)
        self.top = jnp.maximum(masked.max(-1), _least(wide)) if self.known is None else self.known
        p = jnp.exp(masked - self.top[..., None])
        self.total = p.sum(-1)
        return p.astype(scores.dtype)


def _least(dtype: Any) -> float:
    """What is less than any score, and can be subtracted from itself."""
    return float(jnp.finfo(dtype).min) / 2  # type: ignore[no-untyped-call]


class _Problem(NamedTuple):
    """A program with so many lanes of size one, and how many of the tokens that it reads are those of queries."""

    program: Program
    lanes: int
    queries: int

    def sides(self, left: jax.Array, right: jax.Array, count: int) -> list[jax.Array]:
        """For each of the tokens, its tiles: those of queries, or those of keys."""
        return [left if i < self.queries else right for i in range(count)]

    def tile(self, order: Order, left: jax.Array, right: jax.Array, some: Sequence[jax.Array], known: Any) -> Sums:
        """What the program reads out, the largest score and the sum: [tiles, block, ...]."""
        rows = Tile(order, left, right, known)
        value = self.program(rows, order.same(left, right, self.lanes), *some)
        return value, jnp.moveaxis(rows.top, -1, 1), jnp.moveaxis(rows.total, -1, 1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sorted(problem: _Problem, orders: Order, tokens: Arrays) -> jax.Array:
    """The program on the tiles of every round; sums of exponentials are joined by their largest score."""
    return _forward(problem, orders, tokens)[0]


def _forward(problem: _Problem, orders: Order, tokens: Arrays) -> tuple[jax.Array, Any]:
    rounds = len(orders.round)
    made: Sums
    made, like = jax.lax.map(lambda order: _sums(problem, order, tokens), orders)
    value, top, total = (x[0] for x in made)
    for i in range(1, rounds):
        value, top, total = _joined((value, top, total), (made[0][i], made[1][i], made[2][i]))
    total = jnp.where(total == 0, 1, total)  # without any key all sums are zero
    value = value / _beside(total, value)
    return value.astype(like.dtype), (orders, tokens, value, top + jnp.log(total))


def _sums(problem: _Problem, order: Order, tokens: Arrays) -> tuple[Sums, jax.Array]:
    """Of one round: what is read out, the largest score and the sum, [L, T, ...]; nothing in the program's own type."""
    kept = [order.sorted(x) for x in tokens]

    def run(left: jax.Array, right: jax.Array) -> Sums:
        sides = problem.sides(left, right, len(kept))
        return problem.tile(order, left, right, [x[at] for x, at in zip(kept, sides, strict=True)], None)

    def step(left: jax.Array, right: jax.Array, whole: Sums) -> Sums:
        read, other = (jnp.minimum(at, len(order.time) - 1) for at in (left, right))
        parts = _joined((whole[0][read], whole[1][read], whole[2][read]), run(read, other))
        value, top, total = (x.at[left].set(new, mode="drop") for x, new in zip(whole, parts, strict=True))
        return value, top, total

    some = jnp.arange(order.at_once)
    shapes = jax.eval_shape(run, some, some)
    wide = shapes[2].dtype
    empty = [jnp.zeros((len(order.time), *x.shape[1:]), wide) for x in shapes]
    value, top, total = order.walk(step, (empty[0], empty[1] + _least(wide), empty[2]))
    return (order.unsorted(value), order.unsorted(top), order.unsorted(total)), jnp.zeros((), shapes[0].dtype)


def _backward(problem: _Problem, kept: Any, slope: jax.Array) -> tuple[None, tuple[Any, ...]]:
    orders, tokens, value, known = kept
    dtype, slope = slope.dtype, slope.astype(value.dtype)
    share = (slope * value).sum(tuple(range(known.ndim, value.ndim)))
    wanted = [i for i, x in enumerate(tokens) if jnp.issubdtype(x.dtype, jnp.floating)]

    def one(found: Arrays, order: Order) -> tuple[Arrays, None]:
        """Adds what one round does."""
        here = [order.sorted(x) for x in tokens]
        top, given, less = (order.sorted(x) for x in (known, slope, share))

        def step(left: jax.Array, right: jax.Array, slopes: Arrays) -> Arrays:
            read, other = (jnp.minimum(at, len(order.time) - 1) for at in (left, right))
            some = [x[at] for x, at in zip(here, problem.sides(read, other, len(here)), strict=True)]

            def run(*moving: jax.Array) -> tuple[jax.Array, jax.Array]:
                for i, x in zip(wanted, moving, strict=True):
                    some[i] = x
                value, _, total = problem.tile(order, read, other, some, jnp.moveaxis(top[read], 1, -1))
                return value, total

            made = jax.vjp(run, *(some[i] for i in wanted))[1]((given[read].astype(dtype), -less[read]))
            places = problem.sides(left, right, len(here))
            return tuple(
                x.at[places[i]].add(new.astype(x.dtype), mode="drop")
                for i, x, new in zip(wanted, slopes, made, strict=True)
            )

        slopes = order.walk(step, tuple(jnp.zeros_like(here[i], value.dtype) for i in wanted))
        return tuple(x + order.unsorted(new) for x, new in zip(found, slopes, strict=True)), None

    nothing = tuple(jnp.zeros_like(tokens[i], value.dtype) for i in wanted)
    found, _ = jax.lax.scan(one, nothing, orders)
    by_token = dict(zip(wanted, found, strict=True))
    return None, tuple(by_token[i].astype(x.dtype) if i in by_token else None for i, x in enumerate(tokens))


_sorted.defvjp(_forward, _backward)


def _joined(one: Sums, other: Sums) -> Sums:
    """Two sums of exponentials as one."""
    top = jnp.maximum(one[1], other[1])
    first, second = (jnp.exp(each[1] - top) for each in (one, other))
    value = one[0] * _beside(first, one[0]) + other[0] * _beside(second, other[0])
    return value, top, one[2] * first + other[2] * second


def _beside(x: jax.Array, like: jax.Array) -> jax.Array:
    """A factor of the first axes of another value."""
    return x.reshape(*x.shape, *(1,) * (like.ndim - x.ndim))
