"""Attention with composed heads on TPUs and GPUs, interpreted, against the equations on whole maps of pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.pallas.conftest import close
from tests.kernels.pallas.mixes import LOW_RANK, RANK, STATIC

HEADS = 3


def drawn(rng, mix, time, keys):
    """The tokens and weights of a composition."""
    if mix is None:
        return (), ()
    if mix is STATIC:
        return (jnp.asarray(rng.normal(size=(2, time, 1))),), tuple(
            jnp.asarray(rng.normal(size=shape)) for shape in [(HEADS, HEADS), (HEADS,)]
        )
    shapes = [(RANK, HEADS), (RANK, HEADS), (HEADS,)]
    return tuple(jnp.asarray(rng.normal(size=(2, n, *shape))) for n in (time, keys) for shape in shapes), ()


def whole(before, after, pos, behind, arrays):
    """The pair program on all pairs at once."""
    q, k, v, (t1, w1), (t2, w2) = arrays
    place = k.shape[1] - q.shape[1] + np.arange(q.shape[1])
    distance = place[:, None] - np.arange(k.shape[1])
    seen = (distance >= 0) & (distance <= np.broadcast_to(pos, q.shape[:2])[:, :, None])
    seen = (seen if behind is None else seen & (distance <= behind))[:, None]
    a = 0.3 * jnp.einsum("bqhd,bkhd->bhqk", q, k)
    a = jnp.where(seen, a if before is None else before.plain(a, t1, w1), -1e30)
    p = jnp.where(seen, jnp.exp(a - jax.nn.logsumexp(a, -1, keepdims=True)), 0)
    p = p if after is None else after.plain(p, t2, w2)
    return jnp.einsum("bhqk,bkhd->bqhd", p, v)


DOCUMENTS = np.stack([np.r_[np.arange(5), 0, np.arange(7)], np.arange(13) - 4])  # padding on the left, too
CASES = {
    "both": (LOW_RANK, LOW_RANK, DOCUMENTS, 0, None),
    "window": (LOW_RANK, STATIC, np.arange(13), 0, 2),
    "past": (STATIC, None, np.arange(13) + np.array([[5], [30]]), 9, 6),
    "one token": (None, LOW_RANK, np.array([[9], [3]]), 9, None),
}


def never(rows):
    raise AssertionError("the program runs where a kernel should")


@pytest.mark.parametrize(("impl", "case"), [*(("tpu", case) for case in CASES), ("gpu", "both"), ("gpu", "past")])
def test_the_kernels_are_the_equations(kernels, monkeypatch, pulled, rng, case, impl):
    before, after, pos, past, behind = CASES[case]
    monkeypatch.setattr(kernels.composed_tpu, "KEYS", 8)
    monkeypatch.setattr(kernels.composed_tpu, "QUERIES", (4,))
    monkeypatch.setattr(kernels.composed_gpu, "BLOCK", 8)
    monkeypatch.setattr(kernels.composed_blocks_gpu, "KEYS", 4)
    monkeypatch.setattr(kernels.composed_blocks_gpu, "PART", 64)
    time, module = pos.shape[-1], kernels.composed
    shapes = [(time, 4), (past + time, 4), (past + time, 5)]
    q, k, v = (jnp.asarray(rng.normal(size=(2, n, HEADS, dim))) for n, dim in shapes)
    arrays = (q, k, v, drawn(rng, before, time, past + time), drawn(rng, after, time, past + time))
    keys = kernels.pairs.Keys(jnp.asarray(pos), past + time)

    def op(*arrays):
        q, k, v, (t1, w1), (t2, w2) = arrays
        return module.composed_attention(
            never, module.Composed(before, after), q, k, v, keys, tokens=(*t1, *t2), weights=(*w1, *w2), scale=0.3,
            before=behind, impl=impl, interpret=True,
        )  # fmt: skip

    close(pulled(op, *arrays), pulled(lambda *x: whole(before, after, pos, behind, x), *arrays), 1e-8, 1e-10)


@pytest.mark.parametrize(("memory", "ring"), [(0, None), (1 << 30, 7)], ids=["too big", "a ring"])
def test_a_program_runs_where_no_kernel_does(kernels, monkeypatch, memory, ring):
    monkeypatch.setattr(kernels.composed_tpu, "MEMORY", memory)
    x, keys = jnp.zeros((1, 1, 2, 4)), kernels.pairs.Keys(jnp.zeros((1, 1), int), 1, ring)
    y = kernels.composed.composed_attention(
        lambda rows: "the program", kernels.composed.Composed(), x, x, x, keys, impl="tpu"
    )
    assert y == "the program"
