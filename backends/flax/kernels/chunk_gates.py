"""One chunk of a scan of outer products with the equations around it, and back, on any machine.

The equations are computed where their values are needed, and again in the backward pass: no log decay, value, key or
query that they make is ever in memory, nor, but for the gradient on a GPU, what is read out.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from kernels.chunk import Documents, Gradients, Keys, Rule
from kernels.chunk_sizes import LOWEST
from kernels.normalised_chunk import Read, matrix
from kernels.tiles import Arrays, Gates, Side, added, again_and_back, array, behind, estimated, once


def given(per_key: bool, *, before: bool = False, normalised: bool = False) -> Gates:
    """Values and log decays, of keys also keys and queries, as they come: that is the order of x."""
    return (_OF_KEYS if per_key else _OF_HEADS)._replace(before=before, normalised=normalised)


def _given(x: Arrays, w: Arrays, first: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x[1], x[0]


def _given_back(x: Arrays, w: Arrays, first: jax.Array, dlog_a: jax.Array, dv: jax.Array) -> tuple[Arrays, Arrays]:
    return (dv, dlog_a), ()


def _given_keys(x: Arrays, w: Arrays, first: jax.Array) -> Arrays:
    return x[1], x[2], x[0], x[3]


def _given_keys_back(
    x: Arrays, w: Arrays, first: jax.Array, dlog_a: jax.Array, dk: jax.Array, dv: jax.Array, dq: jax.Array
) -> tuple[Arrays, Arrays]:
    return (dv, dlog_a, dk, dq), ()


_OF_HEADS = Gates(_given, _given_back, x_sides=("values", "head"))
_OF_KEYS = Gates(_given_keys, _given_keys_back, x_sides=("values", "keys", "keys", "keys"))


class Chunk(NamedTuple):
    """The tokens x of a chunk and the weights w of a head, in the precision of sums; handed: keys and queries [Q, K],
    operands of products, or nothing where equations make them.

    half: the precision of operands. there [Q, 1]: which tokens there are, some [1, K]: which keys, None if all; x and w
    have copies of others in the place of those that there are not, so that no equation meets a number that is none, and
    keys and queries are zero.
    """

    x: Arrays
    w: Arrays
    handed: Arrays
    half: jnp.dtype
    there: jax.Array
    some: jax.Array | None
    documents: Documents


class Operands(NamedTuple):
    """What a kernel computes from: inputs of the tokens, weights of the heads, keys and queries unless equations make
    them, and the state before, a `State` with a normaliser.
    """

    x: Arrays
    w: Arrays
    handed: Arrays
    S: Any

    def inputs(self, starts: jax.Array) -> "Inputs":
        """What chunks are made of, where documents start there."""
        return Inputs(self.x, self.w, self.handed, starts)


class Inputs(NamedTuple):
    """What chunks are made of in memory, but for the state: the operands, and where the documents of tokens start."""

    x: Any
    w: Any
    handed: Any
    starts: Any


class Made(NamedTuple):
    """What equations make of a chunk: log decays [Q, 1 or K], values [Q, V]; and keys, which they may be handed."""

    logs: jax.Array
    v: jax.Array
    keys: Keys


class Known(NamedTuple):
    """What both halves of a backward pass compute with: what equations make, what the rule makes of that, what was read
    out, and the gradients of that, of x and w by what follows it, and of scores.
    """

    made: Made
    met: Any
    read: Any
    dy: Any
    dx: Arrays
    dw: Arrays
    dscores: jax.Array


def chunk_forward(rule: Rule, gates: Gates, chunk: Chunk, S: Any) -> tuple[Any, Any]:
    """What a chunk gives back [Q, V], or with a normaliser that no equation takes a `Read`, and the state after it.

    Triton spreads all products over its threads as the last one, which should have few rows: what is read comes last.
    """
    made = _made(rule, gates, chunk, S)
    met = rule.meet(jnp.maximum(made.logs, LOWEST), chunk.documents, made.keys)
    after, read = rule.carry(met, S, made.v), rule.read(met, S, made.v)
    found = read if gates.out is None else gates.out(*_followed(gates, chunk, read), chunk.w)
    return found, after


def known(rule: Rule, gates: Gates, chunk: Chunk, S: Any, do: Any, read: Any | None, kept: jnp.dtype) -> Known:
    """From the gradient of what a chunk gives back, zero where there is no token; read: what was read out, if it is
    there already, else it is computed again, and rounded as it is `kept`: both halves go on from the same numbers.
    """
    made = _made(rule, gates, chunk, S)
    met = rule.meet(jnp.maximum(made.logs, LOWEST), chunk.documents, made.keys)
    read = _rounded(rule.read(met, S, made.v), kept) if read is None else read
    incoming: tuple[Any, Arrays, Arrays] = (do, (), ())
    if gates.out_grad is not None:
        incoming = gates.out_grad(*_followed(gates, chunk, read), chunk.w, do)
    if gates.out_grad is not None and gates.normalised:
        dy, (*dx, d_norm), dw = incoming
        incoming = Read(dy, _tile(d_norm, read.norm, chunk)), tuple(dx), dw
    return Known(made, met, read, *incoming, rule.pull(met, made.v, incoming[0]))


def _rounded(read: Any, kept: jnp.dtype) -> Any:
    """What was read out as if it had been in memory; a normaliser is in the precision of sums there."""
    if isinstance(read, Read):
        return read._replace(y=_rounded(read.y, kept))
    return read.astype(kept).astype(read.dtype)


def _followed(gates: Gates, chunk: Chunk, read: Any) -> tuple[jax.Array, Arrays]:
    """What is read of the state, and what equations behind it take; something may be divided by either, also of what is
    no token.
    """
    if isinstance(read, Read):
        return _one_if_none(chunk, read.y), behind(gates, chunk.x, _one_if_none(chunk, read.norm))
    return _one_if_none(chunk, read), chunk.x


def _one_if_none(chunk: Chunk, value: jax.Array) -> jax.Array:
    """Values of tokens, one where there is none: nothing over nothing is no number, and what has none spreads."""
    return jnp.where(chunk.there, value, 1)


def gates_backward(
    gates: Gates, chunk: Chunk, known: Known, d: Gradients, dq: jax.Array | None
) -> tuple[Arrays, Arrays]:
    """The gradients of x and, by token and zero where there is none, of w, from those of what equations make; dq: of
    queries, if they make them.
    """
    learned = chunk.there & ~chunk.documents.first & (known.made.logs > LOWEST)  # no decay where a document starts
    through = (d.v,) if dq is None else tuple(z for z in (d.k, d.v, dq, d.bonus) if z is not None)
    through = jnp.where(learned, d.logs, 0), *(jnp.where(chunk.there, z, 0) for z in through)
    dx, dw = gates.gates_grad(chunk.x, chunk.w, chunk.documents.first, *through)
    tokens, weights = zip(added(dx, known.dx), chunk.x, strict=True), zip(added(dw, known.dw), chunk.w, strict=True)
    of_weights = tuple(jnp.where(chunk.there, _tile(z, like, chunk), 0) for z, like in weights)
    return tuple(_tile(z, like, chunk) for z, like in tokens), of_weights


def _tile(value: jax.Array | float, like: jax.Array, chunk: Chunk) -> jax.Array:
    """A gradient, which may be a number, with a row for each token."""
    return jnp.broadcast_to(jnp.asarray(value, like.dtype), (chunk.there.shape[0], like.shape[1]))


def _made(rule: Rule, gates: Gates, chunk: Chunk, S: Any) -> Made:
    """What is no token decays by nothing and adds nothing, and nothing is read of what is no key."""
    like = matrix(S)
    sizes = Sizes(chunk.there.shape[0], like.shape[1], like.shape[0])

    def spread(z: jax.Array, side: Side) -> jax.Array:
        there = chunk.there if side != "keys" or chunk.some is None else chunk.there & chunk.some
        return jnp.where(there, jnp.broadcast_to(z, (sizes.tokens, sizes.across(side))).astype(like.dtype), 0)

    found = gates.gates(chunk.x, chunk.w, chunk.documents.first)
    if chunk.handed:
        (logs, v), (k, q) = found, chunk.handed
        keys = Keys(k, q, chunk.half)
    else:
        logs, k, v, *others = found
        k, q, *bonus = (spread(z, "keys") for z in (k, *others))
        keys = Keys(k, q, chunk.half, *bonus)
    return Made(spread(logs, rule.side), spread(v, "values"), keys)


class Sizes(NamedTuple):
    """Of the tiles of a chunk: tokens, keys, values."""

    tokens: int
    keys: int
    values: int

    def across(self, side: Side) -> int:
        """Elements of a token of this side."""
        return {"values": self.values, "keys": self.keys, "head": 1}[side]


Part = Literal["forward", "backward", "queries", "keys"]
"""What a kernel computes of a chunk: all of a pass, or one half of the backward pass."""


def cost(rule: Rule, gates: Gates, tile: Sizes, chunks: int, moved: int, part: Part) -> pl.CostEstimate:
    """That of so many chunks, with the bytes read and written."""
    equations = once(gates) if part == "forward" else again_and_back(gates)
    around = estimated(equations, *_tiles(gates, tile), array((tile.tokens, 1), jnp.bool))
    p = rule.products(*tile)
    again = (rule.side == "head" and not gates.normalised) or reads_again(gates, tile)
    products = {
        "forward": p.meet + p.read + p.carry,
        "backward": p.meet + again * p.read + p.pull + p.back_queries + p.back_keys,
        "queries": again * (p.meet + p.read) + p.pull + p.back_queries,
        "keys": p.meet + p.pull + p.back_keys,
    }
    return pl.CostEstimate(
        flops=(2 * products[part] + around.flops) * chunks,
        transcendentals=(rule.exponentials(tile.tokens, tile.keys) + around.transcendentals) * chunks,
        bytes_accessed=moved,
    )


def reads_again(gates: Gates, tile: Sizes) -> bool:
    """Whether a derivative of what follows the read-out depends on what was read; a normaliser divides that."""
    if gates.out_grad is None or gates.normalised:
        return gates.out_grad is not None
    x, w = _tiles(gates, tile)
    jaxpr = jax.make_jaxpr(gates.out_grad)(x[0], x, w, x[0]).jaxpr
    return any(jaxpr.invars[0] in equation.invars for equation in jaxpr.eqns)


def _tiles(gates: Gates, tile: Sizes) -> tuple[Arrays, Arrays]:
    """Shapes of x and w as the equations get them."""
    x = tuple(array((tile.tokens, tile.across(side)), jnp.float32) for side in gates.x_sides)
    return x, tuple(array((1, tile.across(side)), jnp.float32) for side in gates.w_sides)
