"""Pairs within buckets, sorted, against all pairs in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

HEADS, ROUNDS, DIM, BLOCK = 2, 3, 4, 8
BUCKETS = {"a few": (0, 4), "one": (0, 1), "one long, many short": (20, 60), "all different": None}


def drawn(rng, name):
    span = BUCKETS[name]
    if span is None:
        return np.broadcast_to(np.arange(37)[None, :, None, None], (2, 37, HEADS, ROUNDS))
    return np.maximum(rng.integers(span[1], size=(2, 37, HEADS, ROUNDS)), span[0])


def slow(bucket, seen, pos, q, k, v):
    """A token sees itself as good as never; what has no key gets nothing."""
    s = np.einsum("bqhd,bkhd->bhqk", q, k) + np.moveaxis(k[..., 0], 1, -1)[:, :, None]
    s = np.where((pos[:, :, None] == pos[:, None])[:, None], -1e5, s)
    met = np.moveaxis((bucket[:, :, None] == bucket[:, None]).any(-1), -1, 1) & seen[:, None]
    top = np.max(s, -1, keepdims=True, where=met, initial=-1e9)
    p = np.exp(np.where(met, s - top, -np.inf))
    return np.einsum("bhqk,bkhd->bqhd", p / np.maximum(p.sum(-1, keepdims=True), 1e-300), v)


@pytest.mark.parametrize("after", [0, None])
def test_values_and_gradients_are_those_of_all_pairs(kernels, compiled, rng, mixed, after):
    """Uneven buckets too: no key is dropped, and a key that is met in several rounds counts once."""

    def program(rows, same, q, k, v):
        s = jnp.einsum("bqhd,bkhd->bhqk", rows.query_tokens(q), rows.key_tokens(k)) + rows.keys(k[..., 0])
        s = jnp.where((rows.query_pos[..., None] == rows.key_pos[:, None])[:, None], -1e5, s)
        mask = rows.causal() if after == 0 else rows.everything()
        return jnp.einsum("bhqk,bkhd->bqhd", rows.softmax(s, mask[:, None] & same), rows.key_tokens(v))

    @compiled
    def run(bucket, pos, weights, *tokens):
        def over_buckets(q, k, v):
            keys = kernels.pairs.Keys(pos, 37)
            return kernels.buckets.over_buckets(
                program, keys, (bucket, bucket), (q,), (k, v), rounds=True, after=after, block=BLOCK, short=0
            )

        value, pull = jax.vjp(over_buckets, *tokens)
        return value, pull(weights)

    distance = np.arange(37)[:, None] - np.arange(37)
    for name in BUCKETS:
        for pos in (mixed, np.broadcast_to(np.arange(37), (2, 37))):
            bucket = drawn(rng, name)
            seen = abs(distance) <= np.where(distance >= 0, pos[:, :, None], pos[:, None])
            seen = seen & (distance >= 0) if after == 0 else seen
            tokens, weights = rng.normal(size=(3, 2, 37, HEADS, DIM)), rng.normal(size=(2, 37, HEADS, DIM))
            value, slopes = run(bucket, pos, weights, *tokens)
            np.testing.assert_allclose(value, slow(bucket, seen, pos, *tokens), rtol=1e-9, atol=1e-10, err_msg=name)
            for n, each in enumerate(slopes):
                direction = rng.normal(size=tokens[n].shape)
                step = 1e-5 * (np.arange(3) == n)[:, None, None, None, None] * direction
                ends = [(weights * slow(bucket, seen, pos, *(tokens + side * step))).sum() for side in (1, -1)]
                wanted = (ends[0] - ends[1]) / 2e-5
                np.testing.assert_allclose(
                    (each * direction).sum(), wanted, rtol=2e-6, atol=1e-7, err_msg=f"{name} {n}"
                )
