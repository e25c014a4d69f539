"""Compositions of heads, written by hand on the planes of a tile, and what they mean on maps of pairs."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

RANK = 2


class Mix(NamedTuple):
    """What the kernels need of a composition, and the same on pairs [B, H, T, S] of tokens as they are."""

    sides: str
    shapes: str
    mix: Callable
    plain: Callable

    def grad(self, a, qs, ks, ws, d):
        return jax.vjp(self.mix, a, qs, ks, ws)[1](d)


def low_rank(a, qs, ks, ws):
    """Planes of w1, w2 (rank each) and of a gate, on both sides."""
    out = a * (1 + qs[-1] + ks[-1])
    for planes in (qs, ks):
        for r in range(RANK):
            out = out + jnp.sum(a * planes[r], 0, keepdims=True) * planes[RANK + r]
    return out


def low_rank_plain(a, tokens, weights):
    q1, q2, q_gate, k1, k2, k_gate = tokens
    out = a * (1 + jnp.moveaxis(q_gate, 1, 2)[..., None] + jnp.moveaxis(k_gate, 1, 2)[:, :, None])
    out = out + jnp.einsum("bhqk,bqrh,bqrg->bgqk", a, q1, q2)
    return out + jnp.einsum("bhqk,bkrh,bkrg->bgqk", a, k1, k2)


def static(a, qs, ks, ws):
    """A matrix from heads to heads, a rectified difference that a weight scales, a gate for all heads of a query."""
    matrix, gate = ws
    mixed = jnp.sum(matrix[:, :, None, None] * a[:, None], 0)
    return mixed * jnp.tanh(qs[0]) + jnp.maximum(a, 0) * gate


def static_plain(a, tokens, weights):
    return jnp.einsum("bhqk,hg->bgqk", a, weights[0]) * jnp.tanh(tokens[0])[:, None] + jnp.maximum(a, 0) * weights[
        1
    ].reshape(-1, 1, 1)


LOW_RANK = Mix("qqqkkk", "", low_rank, low_rank_plain)
STATIC = Mix("q", "mp", static, static_plain)
