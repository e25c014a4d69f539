"""Arrays that programs of attention with composed heads on a GPU read and add to: masked, all planes, head by head."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from kernels.blocks_gpu import Ref, Refs, load, power, store
from kernels.composed_tiles import Mix
from kernels.tiles import Arrays

LEAST = 16  # rows and columns of a product
Place = tuple[Ref, tuple[jax.Array, ...], jax.Array]
"""An array, places in it, and which of them there are."""


def at(ref: Ref, *index: jax.Array, where: jax.Array) -> jax.Array:
    """Elements of an array at places that broadcast against one another, 0 where the mask is false."""
    shape = jnp.broadcast_shapes(*map(jnp.shape, index))
    return load(ref.at[tuple(index)], jnp.broadcast_to(where, shape))


def put(ref: Ref, value: jax.Array, *index: jax.Array, where: jax.Array) -> None:
    """Writes there."""
    shape = jnp.broadcast_shapes(*map(jnp.shape, index))
    store(ref.at[tuple(index)], jnp.broadcast_to(value, shape), jnp.broadcast_to(where, shape))


def add(ref: Ref, value: jax.Array, *index: jax.Array, where: jax.Array) -> None:
    """Adds to what is there; the array is the program's own."""
    put(ref, at(ref, *index, where=where) + value, *index, where=where)


def planes(refs: Refs, tokens: jax.Array, h: jax.Array, acc: jnp.dtype) -> Arrays:
    """All planes of these tokens, each with their axes and heads or 1."""
    return tuple(at(z, *index, where=where).astype(acc) for z, index, where in _of_tokens(refs, tokens, h))


def add_planes(refs: Refs, found: Arrays, tokens: jax.Array, h: jax.Array) -> None:
    """Adds to all planes of these tokens."""
    for (z, index, where), value in zip(_of_tokens(refs, tokens, h), found, strict=True):
        add(z, value, *index, where=where)


def weights(mix: Mix | None, refs: Refs, h: jax.Array) -> Arrays:
    """All planes [H or 1, 1, 1] and matrices [H, H] of weights."""
    return tuple(at(z, *index, where=where) for z, index, where in _of_weights(mix, refs, h))


def add_weights(mix: Mix | None, refs: Refs, found: Arrays, h: jax.Array) -> None:
    """Adds to all planes and matrices."""
    for (z, index, where), value in zip(_of_weights(mix, refs, h), found, strict=True):
        add(z, value, *index, where=where)


def clear_weights(mix: Mix | None, refs: Refs, h: jax.Array) -> None:
    """Zeros there."""
    for z, index, where in _of_weights(mix, refs, h):
        put(z, jnp.zeros((), z.dtype), *index, where=where)


def _of_tokens(refs: Refs, tokens: jax.Array, h: jax.Array) -> Iterator[Place]:
    for z in refs:
        heads = h if z.shape[2] > 1 else jnp.zeros((1, 1, 1), jnp.int32)
        for p in range(z.shape[1]):
            yield z, (tokens, jnp.full_like(tokens, p), heads), (tokens < z.shape[0]) & (heads < z.shape[2])


def _of_weights(mix: Mix | None, refs: Refs, h: jax.Array) -> Iterator[Place]:
    for z, shape in zip(refs, "" if mix is None else mix.shapes, strict=True):
        if shape == "m":
            rows, columns = rows_of_block(h.shape[0])
            yield z, (rows, columns), (rows < z.shape[0]) & (columns < z.shape[1])
            continue
        heads = h if z.shape[1] > 1 else jnp.zeros((1, 1, 1), jnp.int32)
        for p in range(z.shape[0]):
            none = jnp.zeros_like(heads)
            yield z, (none + p, heads, none, none), heads < z.shape[1]


def clear(ref: Ref, tokens: jax.Array) -> None:
    """Zeros at these tokens [tokens, 1] of an array [T or S, heads or planes, dim]."""
    columns = jnp.arange(power(ref.shape[2]), dtype=jnp.int32)[None, :]
    where = (tokens < ref.shape[0]) & (columns < ref.shape[2])

    def one(i: jax.Array, _: None) -> None:
        put(ref, jnp.zeros((), ref.dtype), tokens, i, columns, where=where)

    jax.lax.fori_loop(0, ref.shape[1], one, None)


# --- products of the heads, one by one ----------------------------------------------------------------


def rows_of_block(block: int, first: jax.Array | int = 0) -> tuple[jax.Array, jax.Array]:
    """The tokens of a block as rows and as columns of a matrix."""
    tokens = first + jnp.arange(block, dtype=jnp.int32)
    return tokens[:, None], tokens[None, :]


def pairs_of(block: int, out: Ref, x: Ref, t0: jax.Array, y: Ref, s0: jax.Array) -> None:
    """`x . y` of every head, of rows of x from t0 and of y from s0 on, into out [H, block, block]."""
    rows, columns = rows_of_block(block)

    def one(h: jax.Array, _: None) -> None:
        found = _product(_rows(block, x, h, t0), _rows(block, y, h, s0), 1, 1)
        put(out, found, h, rows, columns, where=rows >= 0)

    jax.lax.fori_loop(0, out.shape[0], one, None)


def add_products(block: int, out: Ref, first: jax.Array, pairs: Ref, axis: int, y: Ref, other: jax.Array) -> None:
    """Adds to out [T or S, H, dim] from `first` on the products of pairs [H, block, block], over this axis of theirs,
    and of y from `other` on.
    """
    rows, columns = rows_of_block(block)
    tokens, _ = rows_of_block(block, first)
    dims = jnp.arange(power(out.shape[2], LEAST), dtype=jnp.int32)[None, :]
    where = (tokens < out.shape[0]) & (dims < out.shape[2])

    def one(h: jax.Array, _: None) -> None:
        own = at(pairs, h, rows, columns, where=rows >= 0).astype(y.dtype)
        add(out, _product(own, _rows(block, y, h, other), axis, 0), tokens, h, dims, where=where)

    jax.lax.fori_loop(0, pairs.shape[0], one, None)


def _rows(block: int, ref: Ref, h: jax.Array, first: jax.Array) -> jax.Array:
    """The tokens of a head from a place on, [block, dim filled up]."""
    count, _, dim = ref.shape
    tokens, _ = rows_of_block(block, first)
    dims = jnp.arange(power(dim, LEAST), dtype=jnp.int32)[None, :]
    return at(ref, tokens, h, dims, where=(tokens < count) & (dims < dim))


def _product(x: jax.Array, y: jax.Array, i: int, j: int) -> jax.Array:
    """Of matrices, over axis i of x and j of y, summed in at least single precision."""
    precision = None if x.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST
    acc = jnp.promote_types(x.dtype, jnp.float32)
    return jax.lax.dot_general(x, y, (((i,), (j,)), ((), ())), precision=precision, preferred_element_type=acc)
