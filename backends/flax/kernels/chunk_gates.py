"""One chunk of a scan of outer products with the equations around it, and back, on any machine.

The equations are computed where their values are needed, and again in the backward pass: no log decay, no value that
they make and nothing that is read out is ever in memory.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from kernels.chunk import Documents, Rule
from kernels.tiles import Arrays, Gates, Side, added, again_and_back, array, once

LOWEST = -100.0  # a log decay: exp(-100) is nothing in single precision, and sums over a chunk stay exact enough


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


class Shares(NamedTuple):
    """The gradients of a chunk; those of weights by token, zero where there is none."""

    x: Arrays
    w: Arrays
    k: jax.Array
    q: jax.Array
    S: jax.Array


def chunk_forward(rule: Rule, gates: Gates, chunk: Chunk, S: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What a chunk gives back [Q, V], and the state after it."""
    logs, v = _values(rule, gates, chunk, S)
    met = rule.meet(jnp.maximum(logs, LOWEST), chunk.documents, chunk.k, chunk.q)
    y = rule.read(met, S, v)
    return y if gates.out is None else gates.out(y, chunk.x, chunk.w), rule.carry(met, S, v)


def chunk_backward(rule: Rule, gates: Gates, chunk: Chunk, S: jax.Array, dS: jax.Array, do: jax.Array) -> Shares:
    """From the gradients of what a chunk gives back and of the state after it; do is zero where there is no token."""
    logs, v = _values(rule, gates, chunk, S)
    met = rule.meet(jnp.maximum(logs, LOWEST), chunk.documents, chunk.k, chunk.q)
    dy, more = do, ((), ())
    if gates.out_grad is not None:
        dy, *more = gates.out_grad(rule.read(met, S, v), chunk.x, chunk.w, do)
    d = rule.back(met, S, dS, v, dy)
    learned = chunk.there & ~chunk.documents.first & (logs > LOWEST)  # nothing decays where a document starts
    through = jnp.where(learned, d.logs, 0), jnp.where(chunk.there, d.v, 0)
    dx, dw = gates.gates_grad(chunk.x, chunk.w, chunk.documents.first, *through)
    tokens, weights = zip(added(dx, more[0]), chunk.x, strict=True), zip(added(dw, more[1]), chunk.w, strict=True)
    return Shares(
        x=tuple(_tile(z, like, chunk) for z, like in tokens),
        w=tuple(jnp.where(chunk.there, _tile(z, like, chunk), 0) for z, like in weights),
        k=d.k,
        q=d.q,
        S=d.S,
    )


def _tile(value: jax.Array | float, like: jax.Array, chunk: Chunk) -> jax.Array:
    """A gradient, which may be a number, with a row for each token."""
    return jnp.broadcast_to(jnp.asarray(value, like.dtype), (chunk.k.shape[0], like.shape[1]))


def _values(rule: Rule, gates: Gates, chunk: Chunk, S: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log decays and values; what is no token decays by nothing and adds nothing."""
    logs, v = gates.gates(chunk.x, chunk.w, chunk.documents.first)
    size = chunk.k.shape[0]
    wide = (size, chunk.k.shape[1] if rule.per_key else 1)
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


def cost(rule: Rule, gates: Gates, sizes: Sizes, chunks: int, moved: int, *, back: bool) -> pl.CostEstimate:
    """That of so many chunks in one pass, with the bytes read and written."""
    x = tuple(array((sizes.tokens, sizes.across(side)), jnp.float32) for side in gates.x_sides)
    w = tuple(array((1, sizes.across(side)), jnp.float32) for side in gates.w_sides)
    equations = again_and_back(gates) if back else once(gates)
    around = pl.estimate_cost(equations, x, w, array((sizes.tokens, 1), jnp.bool))
    forward, backward, again = rule.products(*sizes)
    products = backward + (again if _reads_again(gates, x, w) else 0) if back else forward
    return pl.CostEstimate(
        flops=(2 * products + around.flops) * chunks,
        transcendentals=(rule.exponentials(sizes.tokens, sizes.keys) + around.transcendentals) * chunks,
        bytes_accessed=moved,
    )


def _reads_again(gates: Gates, x: Arrays, w: Arrays) -> bool:
    """Whether a derivative of what follows the read-out depends on what was read."""
    if gates.out_grad is None:
        return False
    jaxpr = jax.make_jaxpr(gates.out_grad)(x[0], x, w, x[0]).jaxpr
    return any(jaxpr.invars[0] in equation.invars for equation in jaxpr.eqns)
