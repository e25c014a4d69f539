"""Attention against a loop over queries in NumPy: masks, grouped heads, windows, rings."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params


def attention_loop(q, k, v, pos, window, scale):
    batch, time = q.shape[:2]
    pos = np.broadcast_to(pos, (batch, time))
    y = np.zeros((*q.shape[:-1], v.shape[-1]))
    for b, t in np.ndindex(batch, time):
        reach = min(pos[b, t] + 1, window or time, t + 1)
        if reach <= 0:
            continue
        keys, values = k[b, t - reach + 1 : t + 1], v[b, t - reach + 1 : t + 1]
        for g, m in np.ndindex(*q.shape[2:4]):
            p = np.exp(scale * keys[:, g] @ q[b, t, g, m])
            y[b, t, g, m] = p @ values[:, g] / p.sum()
    return y


@pytest.fixture
def tokens(rng):
    return tuple(rng.normal(size=(2, 37, *axes)) for axes in [(2, 3, 5), (2, 5), (2, 4)])


@pytest.fixture
def small_blocks(kernels, monkeypatch):
    monkeypatch.setattr(kernels.attention, "BLOCK", 8)
    monkeypatch.setattr(kernels.attention, "PARTS", 2)


def rings(size, dtype=float):
    """Empty rings: what they hold is never seen, were it as large as it may."""
    return jnp.full((2, size, 2, 5), 1e30, dtype), jnp.full((2, size, 2, 4), 1e30, dtype)


@pytest.mark.parametrize("window", [None, 1, 6, 50])
def test_attention_in_blocks_is_the_loop(kernels, small_blocks, agree, tokens, mixed, window):
    op = partial(kernels.attention.attention, pos=jnp.asarray(mixed), window=window, scale=0.7)
    agree(lambda *x: op(*x)[0], lambda *x: attention_loop(*x, mixed, window, 0.7), tokens)


def loop_both_ways(q, k, v, pos, scale):
    pos = np.broadcast_to(pos, q.shape[:2])
    document = np.where(pos < 0, 0, np.cumsum(pos == 0, 1))
    y = np.zeros((*q.shape[:-1], v.shape[-1]))
    for b, t in np.argwhere(document):
        own = document[b] == document[b, t]
        for g, m in np.ndindex(*q.shape[2:4]):
            p = np.exp(scale * k[b, own][:, g] @ q[b, t, g, m])
            y[b, t, g, m] = p @ v[b, own][:, g] / p.sum()
    return y


@pytest.mark.parametrize("blocks", ["small", "one"])
@pytest.mark.parametrize("packing", ["whole", "packed"])
def test_both_ways_it_is_the_loop(kernels, agree, tokens, mixed, blocks, packing, monkeypatch):
    if blocks == "small":
        monkeypatch.setattr(kernels.attention, "BLOCK", 8)
    pos = np.arange(37)
    if packing == "packed":
        pos = mixed - np.where(mixed[:, :1] > 0, mixed[:, :1], 0) * (np.arange(37) < 9)
        pos[1, 33:] = -1  # padding behind the last document
    op = partial(kernels.attention.bidirectional_attention, pos=jnp.asarray(pos), scale=0.7)
    agree(op, lambda *x: loop_both_ways(*x, pos, 0.7), tokens)


@pytest.mark.parametrize("window", [None, 6])
def test_whole_documents_need_no_positions(kernels, small_blocks, compiled, tokens, window):
    op = partial(kernels.attention.attention, window=window, scale=0.7)
    want = attention_loop(*tokens, np.arange(37), window, 0.7)
    np.testing.assert_allclose(compiled(lambda *x: op(*x, jnp.arange(37))[0])(*tokens), want, rtol=1e-9)


def test_attention_in_one_block_is_the_loop(kernels, agree, tokens, mixed):
    op = partial(kernels.attention.attention, pos=jnp.asarray(mixed), window=6, scale=0.7)
    agree(lambda *x: op(*x)[0], lambda *x: attention_loop(*x, mixed, 6, 0.7), tokens)


@pytest.mark.parametrize(("size", "window"), [(40, None), (6, None), (40, 6), (1, 1)])
def test_pieces_are_the_whole(kernels, small_blocks, in_chunks, agree, tokens, mixed, size, window):
    """Values, and gradients through the rings; some pieces are longer than the window and than a block."""
    mixed = mixed - np.where(mixed[:, :1] > 0, mixed[:, :1], 0) * (np.arange(37) < 9)  # the oracle knows no past
    op = partial(kernels.attention.attention, window=window, scale=0.7)
    reach = min(window or size, size)
    agree(lambda *x: in_chunks(op, x, mixed, rings(size))[0], lambda *x: attention_loop(*x, mixed, reach, 0.7), tokens)


@pytest.mark.parametrize("size", [50, 6])
def test_a_prompt_fills_the_rings(kernels, compiled, tokens, size):
    """Whole documents from pos [T] leave the rings that single tokens leave."""
    q, k, v = (jnp.asarray(x) for x in tokens)
    op = compiled(partial(kernels.attention.attention, window=6, scale=0.7))
    y, filled = op(q, k, v, jnp.arange(37), rings(size))
    state, parts = rings(size), []
    for t in range(37):
        part, state = op(*(x[:, t : t + 1] for x in (q, k, v)), jnp.full((2, 1), t), state)
        parts.append(part)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), y, rtol=1e-10)
    jax.tree.map(np.testing.assert_array_equal, filled, state)


def test_a_query_without_keys_gives_zero_and_no_gradient(kernels, compiled, tokens):
    pos = np.broadcast_to(np.arange(37) - 37, (2, 37))
    op = partial(kernels.attention.attention, pos=pos, scale=1.0)
    value, gradients = compiled(jax.value_and_grad(lambda *x: op(*x)[0].sum(), (0, 1, 2)))(*tokens)
    assert value == 0
    assert all(not g.any() for g in gradients)


def test_half_precision_takes_its_softmax_in_single(kernels, compiled, tokens):
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in tokens)
    op = compiled(partial(kernels.attention.attention, scale=0.7))
    y, state = op(q, k, v, jnp.arange(37), rings(40, jnp.bfloat16))
    assert {y.dtype, state[0].dtype, state[1].dtype} == {jnp.dtype(jnp.bfloat16)}
    exact = attention_loop(*(np.asarray(x, float) for x in (q, k, v)), np.arange(37), None, 0.7)
    np.testing.assert_allclose(np.asarray(y, float), exact, atol=0.02)


def test_a_window_reads_its_keys_only(kernels):
    """Every matrix product of a block spans the block and the window, however long the sequence."""
    block, time = kernels.attention.BLOCK, 4096
    op = partial(kernels.attention.attention, pos=jnp.arange(time), window=8, scale=1.0)
    loss = jax.grad(lambda q, k, v: op(q, k, v)[0].sum(), (0, 1, 2))
    shapes = [jax.ShapeDtypeStruct((1, time, *axes), jnp.float32) for axes in [(1, 1, 4), (1, 4), (1, 4)]]
    products = list(matrix_products(jax.make_jaxpr(loss)(*shapes).jaxpr))
    assert products
    assert max(max(shape) for shape in products) <= block + 7


def matrix_products(jaxpr):
    """The shapes of the operands of all matrix products, inner programs included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield from (x.aval.shape for x in equation.invars)
        for inner in jaxprs_in_params(equation.params):
            yield from matrix_products(inner)
