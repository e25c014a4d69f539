"""Pair programs in blocks of queries against the same program on all pairs in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def distances(pos):
    """d[t, s] = t - s, and [B, T, S] whether both tokens are of one document."""
    pos = np.broadcast_to(pos, (2, 37))
    d = np.arange(37)[:, None] - np.arange(37)
    document = np.cumsum(pos == 0, 1) + 100 * (pos < 0) * np.arange(1, 38)  # each token of the padding is alone
    return d, (document[:, :, None] == document[:, None]) & (pos >= 0)[:, :, None], pos


MASKS = {  # sizes, how many keys before and after a query, definition from the distance and the position of the key
    "everything": ((), None, None, lambda d, key: d < 99),
    "causal": ((), None, 0, lambda d, key: d >= 0),
    "window": ((6,), 5, 0, lambda d, key: (d >= 0) & (d < 6)),
    "near": ((3,), 3, 3, lambda d, key: abs(d) <= 3),
    "dilated": ((3, 4), 8, 0, lambda d, key: (d == 0) | (d == 4) | (d == 8)),
    "prefix": ((4,), None, None, lambda d, key: (key < 4) & (d < 99)),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_sees_these_keys(kernels, compiled, mixed, name):
    """Block by block, with no more keys than needed: exactly the pairs of the definition, inside documents."""
    sizes, before, after, definition = MASKS[name]
    d, together, at = distances(mixed)
    places = jnp.broadcast_to(jnp.arange(37), (2, 37))

    def program(rows):
        mask = getattr(rows, name)(*sizes)
        seen = rows.select(jnp.ones(mask.shape, int), mask)
        return jnp.einsum("bqk,bks->bqs", seen, jax.nn.one_hot(rows.key_tokens(places), 37, dtype=int))

    keys = kernels.pairs.Keys(jnp.asarray(mixed), 37)
    found = compiled(lambda: kernels.pairs.over_rows(program, keys, before=before, after=after, block=8))()
    np.testing.assert_array_equal(found * (at >= 0)[:, :, None], definition(d, at[:, None]) & together)


def composed(np, softmax, mask, s, mix, kmix):
    """Heads mixed before the softmax by the query, after it by the key, as DCFormer does."""
    s = s + np.einsum("bhqk,bhgqk->bgqk", s, mix)
    p = softmax(s, mask)
    return p + np.einsum("bhqk,bhgqk->bgqk", p, kmix)


def composed_loop(q, k, v, mix, kmix, pos, reach):
    d, together, _ = distances(pos)
    mask = (together & (d >= 0) & (d < reach))[:, None]

    def softmax(s, mask):
        p = np.exp(s) * mask
        return p / np.maximum(p.sum(-1, keepdims=True), 1e-300)

    lift = lambda x: np.moveaxis(x, 1, -1)  # noqa: E731
    s = np.einsum("bqhd,bkhd->bhqk", q, k)
    p = composed(np, softmax, mask, s, lift(mix)[..., None], lift(kmix)[..., None, :])
    return np.einsum("bhqk,bkhd->bqhd", p, v)


def composed_attention(kernels, q, k, v, mix, kmix, pos, rings, *, reach, block):
    (k, v, kmix), keys, rings = kernels.pairs.remember((k, v, kmix), pos, rings)

    def program(rows):
        s = jnp.einsum("bqhd,bkhd->bhqk", rows.query_tokens(q), rows.key_tokens(k))
        p = composed(jnp, rows.softmax, rows.window(reach), s, rows.queries(mix), rows.keys(kmix))
        return jnp.einsum("bhqk,bkhd->bqhd", p, rows.key_tokens(v))

    return kernels.pairs.over_rows(program, keys, before=None if reach == 99 else reach - 1, block=block), rings


@pytest.fixture
def tokens(rng):
    return tuple(rng.normal(size=(2, 37, *axes)) for axes in [(3, 2), (3, 2), (3, 2), (3, 3), (3, 3)])


@pytest.mark.parametrize(("reach", "block"), [(99, 4), (98, 8), (6, 8), (6, 64)])
def test_a_program_in_blocks_is_the_program(kernels, agree, tokens, mixed, reach, block):
    op = partial(composed_attention, kernels, reach=reach, block=block)
    agree(lambda *x: op(*x, jnp.asarray(mixed), None)[0], lambda *x: composed_loop(*x, mixed, reach), tokens)


@pytest.mark.parametrize(("width", "reach"), [(40, 99), (6, 6)])
def test_pieces_are_the_whole(kernels, in_chunks, agree, tokens, mixed, width, reach):
    """Values, and gradients through the rings; a query's place in the ring does not matter to it."""
    mixed = mixed - np.where(mixed[:, :1] > 0, mixed[:, :1], 0) * (np.arange(37) < 9)  # the oracle knows no past
    rings = tuple(jnp.full((2, width, *x.shape[2:]), 1e3) for x in (tokens[1], tokens[2], tokens[4]))
    op = partial(composed_attention, kernels, reach=reach, block=8)
    agree(lambda *x: in_chunks(op, x, mixed, rings)[0], lambda *x: composed_loop(*x, mixed, reach), tokens)


def test_a_prompt_fills_the_rings(kernels, tokens):
    x = tuple(jnp.asarray(x) for x in tokens[:2])
    rings = tuple(jnp.zeros((2, 6, 3, 2)) for _ in x)
    seen, keys, filled = kernels.pairs.remember(x, jnp.arange(37), rings)
    assert (seen, keys.count) == (x, 37)
    step = jax.jit(lambda x, pos, rings: kernels.pairs.remember(x, pos, rings)[2])
    for t in range(37):
        rings = step(tuple(z[:, t : t + 1] for z in x), jnp.full((2, 1), t), rings)
    jax.tree.map(np.testing.assert_array_equal, filled, rings)


FOLDS = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min}


def test_folds_are_over_the_seen_keys(kernels, compiled, rng, mixed):
    x = rng.normal(size=(2, 3, 37, 37))
    d, together, _ = distances(mixed)
    seen = together & (d > 0) & (d < 6)

    def folded(x):
        rows = kernels.pairs.Rows(kernels.pairs.Keys(jnp.asarray(mixed), 37), 0, 37, 0, 37)
        mask = rows.window(6) & (rows.distance > 0)
        return {name: getattr(rows, name)(x, mask) for name in FOLDS}

    found = compiled(folded)(x)
    for name, fold in FOLDS.items():
        want = np.zeros((2, 37, 3))
        for b, t in zip(*seen.any(-1).nonzero(), strict=True):
            want[b, t] = fold(x[b, :, t, seen[b, t]], 0)
        np.testing.assert_allclose(found[name], want, rtol=1e-12, err_msg=name)


def test_half_precision_takes_its_softmax_in_single(kernels, compiled):
    def weights(scores):
        rows = kernels.pairs.Rows(kernels.pairs.Keys(jnp.arange(300), 300), 0, 300, 0, 300)
        return rows.softmax(scores, rows.causal())

    p = compiled(weights)(jnp.zeros((1, 2, 300, 300), jnp.bfloat16))
    assert p.dtype == jnp.bfloat16
    assert p[0, 0, 299, 0] == jnp.bfloat16(1 / 300)  # in bfloat16 the sum of ones would stop at 256
