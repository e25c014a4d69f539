"""The backward pass of attention with composed heads on a GPU: two walks over the blocks, each computing them again.

The first has a block of queries and walks its keys twice: the gradient of a softmax needs delta, the sum over keys of
weights and their gradients; then come queries and what belongs to them. The second has a block of keys and walks its
queries: keys, values, what belongs to them, and a share of the gradients of weights. Every sum has one program.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from kernels.blocks_gpu import Ref, Refs
from kernels.composed_blocks_gpu import ORDER, Part, Problem, Specs, over_parts, part_of
from kernels.composed_memory_gpu import (
    add_planes,
    add_products,
    add_weights,
    clear,
    clear_weights,
    pairs_of,
    rows_of_block,
)
from kernels.composed_tiles import Gradients, Operands, Work, mixed, mixed_back, split
from kernels.tiles import Arrays, array


def backward(problem: Problem, x: Operands, lse: jax.Array, dy: jax.Array) -> Operands:
    """The gradients of x, from that of y [B, T, H, value]; lse [B, H, T]."""
    dq, dqs, delta = _of_queries(problem, x, lse, dy)
    dk, dv, dks, dws = _of_keys(problem, x, lse, delta, dy)
    found = Operands(dq, dk, dv, None, dqs, dks, tuple(d.sum((0, 1)) for d in dws))
    return jax.tree.map(lambda d, z: d.astype(z.dtype), found, x._replace(low=None))


def _of_queries(problem: Problem, x: Operands, lse: jax.Array, dy: jax.Array) -> tuple[jax.Array, Arrays, jax.Array]:
    """The gradients of queries, of their tokens, and delta [B, H, T], in the precision of sums."""
    specs = Specs(problem, x)
    pairs = specs.pairs(specs.rows)
    dq, dqs = array(x.q.shape, problem.acc), tuple(array(z.shape, problem.acc) for z in x.qs)
    found = pl.pallas_call(
        functools.partial(_queries_kernel, problem),
        grid=(specs.batch, specs.rows),
        in_specs=[*specs.operands, specs.whole(lse), specs.whole(dy)],
        out_specs=[specs.whole(dq), tuple(map(specs.whole, dqs)), specs.whole(lse), specs.own, specs.own],
        out_shape=[dq, dqs, array(lse.shape, problem.acc), pairs, pairs],
        compiler_params=ORDER,
        cost_estimate=specs.cost(Work(3, 2, 2, 0, 1, 2, 2), dq, *dqs, lse, lse, dy),
        interpret=problem.interpret,
        name="composed_attention_gradient_of_queries",
    )(*x, lse, dy)
    return found[0], found[1], found[2]


def _of_keys(
    problem: Problem, x: Operands, lse: jax.Array, delta: jax.Array, dy: jax.Array
) -> tuple[jax.Array, jax.Array, Arrays, Arrays]:
    """The gradients of keys, values, their tokens, and of weights [B, programs, ...], in the precision of sums."""
    specs = Specs(problem, x)
    pairs = specs.pairs(specs.columns)
    dk, dv, *dks = (array(z.shape, problem.acc) for z in (x.k, x.v, *x.ks))
    dws = tuple(array((specs.batch, specs.columns, *z.shape), problem.acc) for z in x.ws)
    ends = _ends(problem, x.low, specs.columns)
    found = pl.pallas_call(
        functools.partial(_keys_kernel, problem),
        grid=(specs.batch, specs.columns),
        in_specs=[*specs.operands, specs.whole(lse), specs.whole(delta), specs.whole(dy), specs.whole(ends)],
        out_specs=[
            *(specs.whole(dk), specs.whole(dv), tuple(map(specs.whole, dks)), tuple(map(specs.share, dws))),
            *(specs.own, specs.own),
        ],
        out_shape=[dk, dv, tuple(dks), dws, pairs, pairs],
        compiler_params=ORDER,
        cost_estimate=specs.cost(Work(2, 2, 1, 1, 1, 1, 1), dk, dv, *dks, *dws, lse, delta, dy),
        interpret=problem.interpret,
        name="composed_attention_gradient_of_keys",
    )(*x, lse, delta, dy, ends)
    return found[0], found[1], found[2], found[3]


def _ends(problem: Problem, low: jax.Array, columns: int) -> jax.Array:
    """For each block of keys the first query that sees none of it, nor does any later one: [B, blocks]."""
    last = (jnp.arange(columns, dtype=jnp.int32) + 1) * problem.block - 1
    return jnp.sum(low[:, None, :] <= last[:, None], 2, dtype=jnp.int32)


def _found(problem: Problem, part: Part, lse: Ref, a: jax.Array, d: jax.Array) -> tuple[jax.Array, Gradients]:
    """The weights of a part, and what the composition behind the softmax hands back of d."""
    p = part.weights(problem, a, part.of_queries(lse))
    return p, mixed_back(problem.composed.after, p, part.after, jnp.where(part.seen, d, 0))


def _queries_kernel(
    problem: Problem,
    q: Ref,
    k: Ref,
    v: Ref,
    low: Ref,
    qs: Refs,
    ks: Refs,
    ws: Refs,
    lse: Ref,
    dy: Ref,
    dq: Ref,
    dqs: Refs,
    delta: Ref,
    scores: Ref,
    slopes: Ref,
) -> None:
    x = Operands(q, k, v, low, qs, ks, ws)
    t0 = pl.program_id(1) * problem.block
    first, last = problem.columns(x, t0)
    rows, columns = problem.parts(q.shape[1])
    (_, (before, *_)), (_, (after, *_)) = split(problem.composed, dqs, ks, ws)
    for z in (dq, *dqs):
        clear(z, rows_of_block(problem.block, t0)[0])

    def open_sums(i: jax.Array, _: None) -> None:
        part = part_of(problem, x, t0, 0, i, 0)
        part.set_of_queries(delta, jnp.zeros_like(part.of_queries(lse)))

    def lay_out(s0: jax.Array) -> None:
        pairs_of(problem.block, scores, q, t0, k, s0)
        pairs_of(problem.block, slopes, dy, t0, v, s0)
        problem.wait()

    def compare(block: jax.Array, _: None) -> None:
        s0 = block * problem.block
        lay_out(s0)

        def one(i: jax.Array, j: jax.Array) -> None:
            part = part_of(problem, x, t0, s0, i, j)
            p, d = _found(problem, part, lse, part.scores(problem, scores), part.get(slopes))
            part.set_of_queries(delta, part.of_queries(delta) + jnp.sum(p * d.pairs, 2, keepdims=True))
            add_planes(after, d.queries, part.t, part.h)
            problem.wait()

        over_parts(rows, columns, one)

    def hand_back(block: jax.Array, _: None) -> None:
        s0 = block * problem.block
        lay_out(s0)

        def one(i: jax.Array, j: jax.Array) -> None:
            part = part_of(problem, x, t0, s0, i, j)
            a = part.scores(problem, scores)
            p, behind = _found(problem, part, lse, a, part.get(slopes))
            d = p * (behind.pairs - part.of_queries(delta))
            found = mixed_back(problem.composed.before, a, part.before, d)
            part.set(scores, problem.scale * found.pairs)
            add_planes(before, found.queries, part.t, part.h)
            problem.wait()

        over_parts(rows, columns, one)
        add_products(problem.block, dq, t0, scores, 1, k, s0)
        problem.wait()

    jax.lax.fori_loop(0, rows, open_sums, None)
    problem.wait()
    jax.lax.fori_loop(first, last, compare, None)
    jax.lax.fori_loop(first, last, hand_back, None)


def _keys_kernel(
    problem: Problem,
    q: Ref,
    k: Ref,
    v: Ref,
    low: Ref,
    qs: Refs,
    ks: Refs,
    ws: Refs,
    lse: Ref,
    delta: Ref,
    dy: Ref,
    ends: Ref,
    dk: Ref,
    dv: Ref,
    dks: Refs,
    dws: Refs,
    scores: Ref,
    slopes: Ref,
) -> None:
    x = Operands(q, k, v, low, qs, ks, ws)
    s0 = pl.program_id(1) * problem.block
    first, last = problem.rows_of(s0, ends[pl.program_id(1)])
    rows, columns = problem.parts(q.shape[1])
    both = split(problem.composed, qs, dks, dws)
    for z in (dk, dv, *dks):
        clear(z, rows_of_block(problem.block, s0)[0])
    for mix, (_, _, own) in both:
        clear_weights(mix, own, part_of(problem, x, 0, s0, 0, 0).h)
    problem.wait()

    def hand_back(block: jax.Array, _: None) -> None:
        t0 = block * problem.block
        pairs_of(problem.block, scores, q, t0, k, s0)
        pairs_of(problem.block, slopes, dy, t0, v, s0)
        problem.wait()

        def one(j: jax.Array, i: jax.Array) -> None:
            part = part_of(problem, x, t0, s0, i, j)
            a = part.scores(problem, scores)
            p, after = _found(problem, part, lse, a, part.get(slopes))
            d = p * (after.pairs - part.of_queries(delta))
            before = mixed_back(problem.composed.before, a, part.before, d)
            part.set(scores, problem.scale * before.pairs)
            part.set(slopes, mixed(problem.composed.after, p, part.after))
            for (mix, (_, keys, own)), found in zip(both, (before, after), strict=True):
                add_planes(keys, found.keys, part.s, part.h)
                add_weights(mix, own, found.weights, part.h)
            problem.wait()

        over_parts(columns, rows, one)
        add_products(problem.block, dk, s0, scores, 0, q, t0)
        add_products(problem.block, dv, s0, slopes, 0, dy, t0)
        problem.wait()

    jax.lax.fori_loop(first, last, hand_back, None)
