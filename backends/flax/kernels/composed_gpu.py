"""Attention with composed heads on a GPU, through Pallas and Triton: blocks of queries and keys with all their heads.

The keys of a block of queries are walked twice: for the sums of the softmax of every head, since a composition behind
it reads the weights of all of them, and for what is read with the composed weights. A program has memory for the pairs
of a block, so what they take grows with the number of tokens, never with its square.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from kernels.blocks_gpu import MISSING, Ref, Refs, operations
from kernels.composed_back_gpu import backward
from kernels.composed_blocks_gpu import LOWEST, ORDER, Problem, Specs, over_parts, part_of
from kernels.composed_memory_gpu import add_products, clear, pairs_of, rows_of_block
from kernels.composed_tiles import (
    Composed,
    Operands,
    Shape,
    Work,
    logarithm,
    lowest,
    mixed,
    read,
    sides_of,
    split,
    summed,
)
from kernels.tiles import Arrays, accumulator, array

BLOCK = 64  # queries, and keys, of a block


def lowers(composed: Composed, tokens: Arrays, weights: Arrays) -> bool:
    """Whether Triton has, through Pallas, what these compositions do with pairs."""
    qs, ks, ws = jax.eval_shape(lambda t, w: read(composed, t, w, jnp.float32), tokens, weights)
    planes = Shape(*(tuple(z.shape[2:] for z in each) for each in (qs, ks)), ws)
    heads = max([1, *(z.shape[0] for z in ws if z.ndim == 2), *(n for each in planes[:2] for _, n in each)])
    a = array((heads, 1, 1), jnp.float32)
    made = [jax.make_jaxpr(mix.mix)(a, *sides_of(mix, Shape(*own), a)) for mix, own in split(composed, *planes) if mix]
    return not MISSING & {name for each in made for name in operations(each.jaxpr)}


def composed_attention_gpu(
    composed: Composed,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    pos: jax.Array,
    tokens: Arrays,
    weights: Arrays,
    *,
    scale: float,
    behind: int | None,
    interpret: bool,
) -> jax.Array:
    """y [B, T, H, value] in the dtype of v, zero for a query without keys.

    q [B, T, H, dim], k [B, S, H, dim], v [B, S, H, value] in the order of time, the last T keys being those of the
    queries at pos [T] or [B, T]. tokens, weights: as in `composed_attention`. behind: how many keys back a query sees,
    None for all.
    """
    past = k.shape[1] - q.shape[1]
    acc = accumulator(q, k, v, *tokens, *weights)
    low = jnp.broadcast_to(lowest(pos, past, behind), q.shape[:2])
    x = Operands(q, k, v, low, *read(composed, tokens, weights, acc))
    return _run(Problem(composed, scale, past, BLOCK, acc, interpret), x).astype(v.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(problem: Problem, x: Operands) -> jax.Array:
    return _forward(problem, x)[0]


def _save(problem: Problem, x: Operands) -> tuple[jax.Array, tuple[Operands, jax.Array]]:
    y, lse = _forward(problem, x)
    return y, (x, lse)


def _backward(problem: Problem, saved: tuple[Operands, jax.Array], dy: jax.Array) -> tuple[Operands]:
    x, lse = saved
    return (backward(problem, x, lse, dy.astype(x.v.dtype)),)


_run.defvjp(_save, _backward)


def _forward(problem: Problem, x: Operands) -> tuple[jax.Array, jax.Array]:
    """y [B, T, H, value] in the precision of sums, and the logs of the sums of the softmax [B, H, T]."""
    batch, time, heads, _ = x.q.shape
    specs = Specs(problem, x)
    y = array((batch, time, heads, x.v.shape[3]), problem.acc)
    sums = array((batch, heads, time), problem.acc)
    found: tuple[jax.Array, jax.Array, jax.Array] = pl.pallas_call(
        functools.partial(_forward_kernel, problem),
        grid=(batch, specs.rows),
        in_specs=specs.operands,
        out_specs=[specs.whole(y), specs.whole(sums), specs.own],
        out_shape=[y, sums, specs.pairs(specs.rows)],
        compiler_params=ORDER,
        cost_estimate=specs.cost(Work(2, 1, 2, 1, 0, 0, 2), y, sums),
        interpret=problem.interpret,
        name="composed_attention",
    )(*x)
    return found[:2]


def _forward_kernel(
    problem: Problem,
    q: Ref,
    k: Ref,
    v: Ref,
    low: Ref,
    qs: Refs,
    ks: Refs,
    ws: Refs,
    y: Ref,
    lse: Ref,
    pairs: Ref,
) -> None:
    x = Operands(q, k, v, low, qs, ks, ws)
    t0 = pl.program_id(1) * problem.block
    first, last = problem.columns(x, t0)
    rows, columns = problem.parts(q.shape[1])
    clear(y, rows_of_block(problem.block, t0)[0])

    def open_sums(i: jax.Array, _: None) -> None:
        part = part_of(problem, x, t0, 0, i, 0)
        part.set_of_queries(lse, jnp.full_like(part.of_queries(lse), LOWEST))

    def normalise(block: jax.Array, _: None) -> None:
        s0 = block * problem.block
        pairs_of(problem.block, pairs, q, t0, k, s0)
        problem.wait()

        def some(i: jax.Array, _: None) -> None:
            def more(j: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
                part, (top, total) = part_of(problem, x, t0, s0, i, j), sums
                s = jnp.where(
                    part.seen, mixed(problem.composed.before, part.scores(problem, pairs), part.before), LOWEST
                )
                return summed(s, part.seen, top, total)

            part = part_of(problem, x, t0, s0, i, 0)
            old = part.of_queries(lse)
            top, total = jax.lax.fori_loop(0, columns, more, (old, jnp.where(old > LOWEST, 1, jnp.zeros_like(old))))
            part.set_of_queries(lse, logarithm(top, total, LOWEST))

        jax.lax.fori_loop(0, rows, some, None)
        problem.wait()

    def attend(block: jax.Array, _: None) -> None:
        s0 = block * problem.block
        pairs_of(problem.block, pairs, q, t0, k, s0)
        problem.wait()

        def one(i: jax.Array, j: jax.Array) -> None:
            part = part_of(problem, x, t0, s0, i, j)
            p = part.weights(problem, part.scores(problem, pairs), part.of_queries(lse))
            part.set(pairs, mixed(problem.composed.after, p, part.after))

        over_parts(rows, columns, one)
        problem.wait()
        add_products(problem.block, y, t0, pairs, 1, v, s0)
        problem.wait()

    jax.lax.fori_loop(0, rows, open_sums, None)
    problem.wait()
    jax.lax.fori_loop(first, last, normalise, None)
    jax.lax.fori_loop(first, last, attend, None)
