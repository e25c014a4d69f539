"""Attention with composed heads by the letter of its contract, all pairs at once: what a kernel makes of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def planes(token: jax.Array, side: str) -> tuple[jax.Array, ...]:
    """A token [T, *axes, heads or 1] as planes: [heads or 1, T, 1] of queries, [heads or 1, 1, S] of keys."""
    flat = jnp.moveaxis(token.reshape(token.shape[0], -1, token.shape[-1]), 0, 2)  # [planes, heads, T]
    return tuple(flat[..., None] if side == "q" else flat[:, :, None])


def weight_planes(weight: jax.Array, shape: str) -> tuple[jax.Array, ...]:
    """A weight as planes [heads or 1, 1, 1], or the matrix itself."""
    if shape == "m":
        assert weight.ndim == 2
        return (weight,)
    return tuple(weight.reshape(-1, weight.shape[-1], 1, 1))


def mixed(mix: Any, pairs: jax.Array, tokens: Sequence[jax.Array], weights: Sequence[jax.Array]) -> jax.Array:
    """The pairs [B, heads, T, S] after a composition."""
    if mix is None:
        return pairs
    ws = tuple(p for w, shape in zip(weights, mix.shapes, strict=True) for p in weight_planes(w, shape))

    def one(a: jax.Array, *own: jax.Array) -> jax.Array:
        qs, ks = (
            tuple(p for t, at in zip(own, mix.sides, strict=True) if at == side for p in planes(t, side))
            for side in "qk"
        )
        found: jax.Array = mix.mix(a, qs, ks, ws)
        assert found.shape == a.shape
        return found

    return jnp.stack([one(pairs[i], *(t[i] for t in tokens)) for i in range(len(pairs))])


def composed_attention(
    program: Callable[[Any], jax.Array],
    composed: Any,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    keys: Any,
    *,
    tokens: tuple[jax.Array, ...] = (),
    weights: tuple[jax.Array, ...] = (),
    scale: float,
    before: int | None = None,
) -> jax.Array:
    """See backends/flax/kernels/composed.py; the program is not run."""
    time, count = q.shape[1], k.shape[1]
    assert q.ndim == k.ndim == v.ndim == 4
    if keys.ring is None:
        distance = (count - time + jnp.arange(time)[:, None] - jnp.arange(count))[None]
    else:
        distance = ((keys.pos - jnp.arange(count)) % keys.ring)[:, None]
    seen = (distance >= 0) & (distance <= (count if before is None else before))
    pos = keys.pos if keys.pos.ndim == 2 else keys.pos[None]
    seen = (seen & (distance <= pos[..., None]))[:, None]
    own = [0, 0]
    for place, mix in enumerate((composed.before, composed.after)):
        own[place] = len(mix.sides) if mix else 0
    first = len(composed.before.shapes) if composed.before else 0
    assert sum(own) == len(tokens)
    s = scale * jnp.einsum("bqhd,bkhd->bhqk", q, k)
    s = jnp.where(seen, mixed(composed.before, s, tokens[: own[0]], weights[:first]), -jnp.inf)
    top = jax.lax.stop_gradient(jnp.max(s, -1, keepdims=True))
    p = jnp.exp(s - jnp.where(top == -jnp.inf, 0, top))
    total = jnp.sum(p, -1, keepdims=True)
    p = mixed(composed.after, p / jnp.where(total == 0, 1, total), tokens[own[0] :], weights[first:])
    return jnp.einsum("bhqk,bkhe->bqhe", p, v)
