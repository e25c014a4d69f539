"""The backward pass of attention with composed heads on a TPU: two walks over the tiles, each computing them again.

The first has a block of queries and walks its keys twice: the gradient of a softmax needs delta, the sum over keys of
weights and their gradients; then come queries and what belongs to them. The second has a block of keys and walks its
queries: keys, values, what belongs to them, and the weights of compositions.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from kernels.blocks_tpu import Ref, Refs
from kernels.composed_blocks_tpu import (
    MEMORY,
    Problem,
    Tile,
    add_keys,
    add_queries,
    add_weights,
    column_of,
    cost,
    lanes_of,
    specs,
    tile,
)
from kernels.composed_tiles import Gradients, Operands, Work, batched, mixed, mixed_back, split
from kernels.tiles import Arrays, array, traffic


def backward(problem: Problem, x: Operands, lse: jax.Array, dy: jax.Array) -> Operands:
    """The gradients of x, from that of y [B, H, T, value]; lse [B, T, H]."""
    dq, dqs, delta = _of_queries(problem, x, lse, dy)
    dk, dv, dks, dws = _of_keys(problem, x, lse, delta, dy)
    dqs, dks = (
        tuple(d.astype(z.dtype) for d, z in zip(found, of, strict=True)) for found, of in ((dqs, x.qs), (dks, x.ks))
    )
    return Operands(dq, dk, dv, None, dqs, dks, tuple(d.sum(0) for d in dws))


def _of_queries(problem: Problem, x: Operands, lse: jax.Array, dy: jax.Array) -> tuple[jax.Array, Arrays, jax.Array]:
    """The gradients of queries, of their tokens, and delta [B, T, H]."""
    band, acc = problem.band, problem.acc
    batch, heads, _, dim = x.q.shape

    def column(i: jax.Array, phase: jax.Array, s: jax.Array) -> jax.Array:
        first, last = band.of_row(i)
        return jnp.minimum(first + s, last)

    spec = specs(x, band, lambda i, phase, s: i, column)
    tokens = tuple(array(z.shape, acc) for z in x.qs)
    dq, dqs, delta = pl.pallas_call(
        functools.partial(_queries_kernel, problem),
        grid=(batch, band.rows, 2, band.row_steps()),
        in_specs=[*spec.operands(), spec.sums, spec.y],
        out_specs=[spec.q, spec.qs, spec.sums],
        out_shape=[array(x.q.shape, x.q.dtype), tokens, array(lse.shape, acc)],
        scratch_shapes=[pltpu.VMEM((heads, band.queries, dim), acc), pltpu.VMEM((heads, band.queries, 1), acc)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=MEMORY
        ),
        cost_estimate=cost(problem, x, Work(3, 2, 2, 0, 1, 2, 2), traffic(x, x.q, tokens, lse, lse, dy)),
        interpret=problem.interpret,
        name="composed_attention_gradient_of_queries",
    )(*x, lse, dy)
    return dq, dqs, delta


def _of_keys(
    problem: Problem, x: Operands, lse: jax.Array, delta: jax.Array, dy: jax.Array
) -> tuple[jax.Array, jax.Array, Arrays, Arrays]:
    """The gradients of keys, values, their tokens, and of weights [B, ...]."""
    band, acc = problem.band, problem.acc
    batch, heads, _, dim = x.q.shape

    def row(j: jax.Array, s: jax.Array) -> jax.Array:
        first, last = band.of_column(j)
        return jnp.minimum(jnp.minimum(first + s, last), band.rows - 1)

    spec = specs(x, band, row, lambda j, s: j)
    tokens = tuple(array(z.shape, acc) for z in x.ks)
    weights = tuple(array((batch, *z.shape), acc) for z in x.ws)
    weight_specs = tuple(pl.BlockSpec((1, *z.shape), lambda b, j, s, n=z.ndim: (b, *(0,) * n)) for z in x.ws)
    dk, dv, dks, dws = pl.pallas_call(
        functools.partial(_keys_kernel, problem),
        grid=(batch, band.columns, band.column_steps()),
        in_specs=[*spec.operands(), spec.sums, spec.sums, spec.y],
        out_specs=[spec.k, spec.v, spec.ks, weight_specs],
        out_shape=[array(x.k.shape, x.k.dtype), array(x.v.shape, x.v.dtype), tokens, weights],
        scratch_shapes=[
            pltpu.VMEM((heads, band.keys, dim), acc),
            pltpu.VMEM((heads, band.keys, x.v.shape[3]), acc),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=MEMORY
        ),
        cost_estimate=cost(
            problem, x, Work(2, 2, 1, 1, 1, 1, 1), traffic(x, x.k, x.v, tokens, weights, lse, delta, dy)
        ),
        interpret=problem.interpret,
        name="composed_attention_gradient_of_keys",
    )(*x, lse, delta, dy)
    return dk, dv, dks, dws


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
    total: Ref,
    between: Ref,
) -> None:
    row, phase, s = (pl.program_id(axis) for axis in (1, 2, 3))
    first, last = problem.band.of_row(row)
    column, ends = first + s, s == pl.num_programs(3) - 1
    dqs_before, dqs_after = (refs for _mix, (refs, *_others) in split(problem.composed, dqs, ks, ws))

    def found() -> tuple[Tile, jax.Array, Gradients]:
        t = tile(problem, Operands(q, k, v, low, qs, ks, ws), row, column)
        p = t.weights(problem, column_of(lse[0]))
        return t, p, mixed_back(problem.composed.after, p, t.after, batched(dy[0], v[0], 2, 2).astype(problem.acc))

    @pl.when((phase == 0) & (s == 0))
    def _() -> None:
        total[...], between[...] = jnp.zeros_like(total), jnp.zeros_like(between)
        for z in dqs:
            z[...] = jnp.zeros_like(z)

    @pl.when((phase == 0) & (column <= last))
    def _() -> None:
        _, p, d = found()
        between[...] += jnp.sum(p * d.pairs, 2, keepdims=True)
        add_queries(dqs_after, d.queries)

    @pl.when((phase == 0) & ends)
    def _() -> None:
        delta[0] = lanes_of(between[...])

    @pl.when((phase == 1) & (column <= last))
    def _() -> None:
        t, p, after = found()
        d = mixed_back(problem.composed.before, t.scores, t.before, p * (after.pairs - between[...]))
        total[...] += batched((d.pairs * problem.scale).astype(k.dtype), k[0], 2, 1)
        add_queries(dqs_before, d.queries)

    @pl.when((phase == 1) & ends)
    def _() -> None:
        dq[0] = total[...].astype(dq.dtype)


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
    dk: Ref,
    dv: Ref,
    dks: Refs,
    dws: Refs,
    total_k: Ref,
    total_v: Ref,
) -> None:
    column, s = pl.program_id(1), pl.program_id(2)
    first, last = problem.band.of_column(column)
    row = first + s

    @pl.when(s == 0)
    def _() -> None:
        for z in (total_k, total_v, *dks):
            z[...] = jnp.zeros_like(z)

    @pl.when((s == 0) & (column == 0))
    def _() -> None:
        for z in dws:
            z[...] = jnp.zeros_like(z)

    @pl.when(row <= last)
    def _() -> None:
        t = tile(problem, Operands(q, k, v, low, qs, ks, ws), row, column)
        p = t.weights(problem, column_of(lse[0]))
        d_composed = batched(dy[0], v[0], 2, 2).astype(problem.acc)
        after = mixed_back(problem.composed.after, p, t.after, d_composed)
        before = mixed_back(problem.composed.before, t.scores, t.before, p * (after.pairs - column_of(delta[0])))
        total_v[...] += batched(mixed(problem.composed.after, p, t.after).astype(dy.dtype), dy[0], 1, 1)
        total_k[...] += batched((before.pairs * problem.scale).astype(q.dtype), q[0], 1, 1)
        for (mix, (_, keys, weights)), d in zip(split(problem.composed, qs, dks, dws), (before, after), strict=True):
            add_keys(keys, d.keys)
            add_weights(mix, weights, d.weights)

    @pl.when(s == pl.num_programs(2) - 1)
    def _() -> None:
        dk[0], dv[0] = total_k[...].astype(dk.dtype), total_v[...].astype(dv.dtype)
