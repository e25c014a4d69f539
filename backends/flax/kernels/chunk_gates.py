"""One chunk of a scan of outer products with the equations around it, and back, on any machine.

The equations are computed where their values are needed, and again in the backward pass: no log decay and no value that
they make is ever in memory, nor, but for the gradient on a GPU, what is read out.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from kernels.chunk import Documents, Rule
from kernels.chunk_sizes import LOWEST
from kernels.tiles import Arrays, Gates, Side, added, again_and_back, array, once


def given(per_key: bool) -> Gates:
    """Values and log decays as they come: x[0] and x[1]."""
    return _OF_KEYS if per_key else _OF_HEADS


def _given(x: Arrays, w: Arrays, first: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x[1], x[0]


def _given_back(x: Arrays, w: Arrays, first: jax.Array, dlog_a: jax.Array, dv: jax.Array) -> tuple[Arrays, Arrays]:
    return (dv, dlog_a), ()


_OF_HEADS = Gates(_given, _given_back, x_sides=("values", "head"))
_OF_KEYS = Gates(_given, _given_back, x_sides=("values", "keys"))


class Chunk(NamedTuple):
    """The tokens x of a chunk and the weights w of a head, in the precision of sums; k, q [Q, K], operands of products.

    there [Q, 1]: which tokens there are; tokens x that there are not are copies of others, so that no equation meets a
    number that is none, and keys are zero.
    """

    x: Arrays
    w: Arrays
    k: jax.Array
    q: jax.Array
    there: jax.Array
    documents: Documents


class Operands(NamedTuple):
    """What a kernel computes from: inputs of the tokens, weights of the heads, keys, queries, and the state before."""

    x: Arrays
    w: Arrays
    k: jax.Array
    q: jax.Array
    S: jax.Array


class Known(NamedTuple):
    """What both halves of a backward pass compute with: log decays, values, what the rule makes of them, what was read
    out, and the gradients of that, of x and w by what follows it, and of scores.
    """

    logs: jax.Array
    v: jax.Array
    met: Any
    read: jax.Array
    dy: jax.Array
    dx: Arrays
    dw: Arrays
    dscores: jax.Array


def chunk_forward(rule: Rule, gates: Gates, chunk: Chunk, S: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What a chunk gives back [Q, V], and the state after it."""
    logs, v = _values(rule, gates, chunk, S)
    met = rule.meet(jnp.maximum(logs, LOWEST), chunk.documents, chunk.k, chunk.q)
    y = rule.read(met, S, v)
    return y if gates.out is None else gates.out(y, chunk.x, chunk.w), rule.carry(met, S, v)


def known(
    rule: Rule, gates: Gates, chunk: Chunk, S: jax.Array, do: jax.Array, read: jax.Array | None, kept: jnp.dtype
) -> Known:
    """From the gradient of what a chunk gives back, zero where there is no token; read: what was read out, if it is
    there already, else it is computed again, and rounded as it is `kept`: both halves go on from the same numbers.
    """
    logs, v = _values(rule, gates, chunk, S)
    met = rule.meet(jnp.maximum(logs, LOWEST), chunk.documents, chunk.k, chunk.q)
    read = rule.read(met, S, v).astype(kept).astype(S.dtype) if read is None else read
    incoming: tuple[jax.Array, Arrays, Arrays] = (do, (), ())
    if gates.out_grad is not None:
        incoming = gates.out_grad(read, chunk.x, chunk.w, do)
    return Known(logs, v, met, read, *incoming, rule.pull(met, v, incoming[0]))


def gates_backward(gates: Gates, chunk: Chunk, known: Known, dlogs: jax.Array, dv: jax.Array) -> tuple[Arrays, Arrays]:
    """The gradients of x and, by token and zero where there is none, of w, from those of log decays and values."""
    learned = chunk.there & ~chunk.documents.first & (known.logs > LOWEST)  # nothing decays where a document starts
    through = jnp.where(learned, dlogs, 0), jnp.where(chunk.there, dv, 0)
    dx, dw = gates.gates_grad(chunk.x, chunk.w, chunk.documents.first, *through)
    tokens, weights = zip(added(dx, known.dx), chunk.x, strict=True), zip(added(dw, known.dw), chunk.w, strict=True)
    of_weights = tuple(jnp.where(chunk.there, _tile(z, like, chunk), 0) for z, like in weights)
    return tuple(_tile(z, like, chunk) for z, like in tokens), of_weights


def _tile(value: jax.Array | float, like: jax.Array, chunk: Chunk) -> jax.Array:
    """A gradient, which may be a number, with a row for each token."""
    return jnp.broadcast_to(jnp.asarray(value, like.dtype), (chunk.k.shape[0], like.shape[1]))


def _values(rule: Rule, gates: Gates, chunk: Chunk, S: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log decays and values; what is no token decays by nothing and adds nothing."""
    logs, v = gates.gates(chunk.x, chunk.w, chunk.documents.first)
    size = chunk.k.shape[0]
    wide = (size, chunk.k.shape[1] if rule.side == "keys" else 1)
    logs, v = jnp.broadcast_to(logs, wide).astype(S.dtype), jnp.broadcast_to(v, (size, S.shape[1])).astype(S.dtype)
    return jnp.where(chunk.there, logs, 0), jnp.where(chunk.there, v, 0)


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
    around = pl.estimate_cost(equations, *_tiles(gates, tile), array((tile.tokens, 1), jnp.bool))
    p = rule.products(*tile)
    again = rule.side == "head" or reads_again(gates, tile)
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
    """Whether a derivative of what follows the read-out depends on what was read."""
    if gates.out_grad is None:
        return False
    x, w = _tiles(gates, tile)
    jaxpr = jax.make_jaxpr(gates.out_grad)(x[0], x, w, x[0]).jaxpr
    return any(jaxpr.invars[0] in equation.invars for equation in jaxpr.eqns)


def _tiles(gates: Gates, tile: Sizes) -> tuple[Arrays, Arrays]:
    """Shapes of x and w as the equations get them."""
    x = tuple(array((tile.tokens, tile.across(side)), jnp.float32) for side in gates.x_sides)
    return x, tuple(array((1, tile.across(side)), jnp.float32) for side in gates.w_sides)
