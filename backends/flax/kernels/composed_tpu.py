"""Attention with composed heads on a TPU: a tile of queries and keys of all heads at a time, no pair in memory.

The keys of a block of queries are walked twice: for the sums of the softmax of every head, since a composition behind
it reads the weights of all of them, and for what is read with the composed weights.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from kernels.blocks_tpu import LANES, Ref, Refs
from kernels.composed_back_tpu import backward
from kernels.composed_blocks_tpu import LOWEST, MEMORY, Problem, column_of, cost, lanes_of, specs, tile
from kernels.composed_tiles import Band, Composed, Operands, Work, batched, logarithm, lowest, mixed, read, summed
from kernels.tiles import Arrays, accumulator, array, traffic, up

KEYS = 128  # of a tile
QUERIES = (64, 32, 16)  # of a tile: as many as fit
LIVE = 10  # tiles that a backward pass holds at once
NEVER = 1 << 30  # the lowest key of a query that there is not
ORDER = pltpu.CompilerParams(
    dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=MEMORY
)


def queries_of_tile(q: jax.Array, v: jax.Array, tokens: Arrays) -> int | None:
    """How many queries a tile has, for q, v and tokens of `composed_attention`; None: not even the fewest fit.

    It is the backward pass of keys that holds most: keys, values and their gradients twice, and their sums once.
    """
    heads, width = q.shape[2], q.dtype.itemsize
    lanes, planes = up(q.shape[3], LANES) + up(v.shape[3], LANES), sum(math.prod(z.shape[2:-1]) for z in tokens)
    for queries in QUERIES:
        pairs = LIVE * queries * KEYS * 4 + planes * queries * LANES * 4
        if heads * (pairs + KEYS * lanes * (4 * width + 4) + 2 * queries * lanes * width) <= MEMORY:
            return queries
    return None


def composed_attention_tpu(
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
    queries: int,
    interpret: bool,
) -> jax.Array:
    """y [B, T, H, value] in the dtype of v, zero for a query without keys.

    q [B, T, H, dim], k [B, S, H, dim], v [B, S, H, value] in the order of time, the last T keys being those of the
    queries at pos [T] or [B, T]. tokens, weights: as in `composed_attention`. behind: how many keys back a query sees,
    None for all. queries: `queries_of_tile`.
    """
    time = q.shape[1]
    past, rows, columns = k.shape[1] - time, up(time, queries), up(k.shape[1], KEYS)
    band = Band(rows // queries, columns // KEYS, queries, KEYS, past, behind)
    low = lowest(pos, past, behind).reshape(-1, time, 1)

    def by_head(x: jax.Array, size: int) -> jax.Array:
        return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, size - x.shape[1]), (0, 0)))

    acc = accumulator(q, k, v, *tokens, *weights)
    qs, ks, ws = read(composed, tokens, weights, acc)
    x = Operands(
        *(by_head(q, rows), by_head(k, columns), by_head(v, columns)),
        low=jnp.pad(low, ((0, 0), (0, rows - time), (0, 0)), constant_values=NEVER),
        qs=tuple(by_head(z, rows) for z in qs),
        ks=tuple(jnp.swapaxes(by_head(z, columns), 2, 3) for z in ks),
        ws=ws,
    )
    return _run(Problem(composed, scale, band, acc, interpret), x)[:, :, :time].swapaxes(1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(problem: Problem, x: Operands) -> jax.Array:
    return _forward(problem, x)[0]


def _save(problem: Problem, x: Operands) -> tuple[jax.Array, tuple[Operands, jax.Array]]:
    y, lse = _forward(problem, x)
    return y, (x, lse)


def _backward(problem: Problem, saved: tuple[Operands, jax.Array], dy: jax.Array) -> tuple[Operands]:
    return (backward(problem, *saved, dy),)


_run.defvjp(_save, _backward)


def _forward(problem: Problem, x: Operands) -> tuple[jax.Array, jax.Array]:
    """y [B, H, T, value], and the logs of the sums of the softmax [B, T, H]."""
    band = problem.band
    batch, heads, time, _ = x.q.shape
    value = x.v.shape[3]

    def column(i: jax.Array, phase: jax.Array, s: jax.Array) -> jax.Array:
        first, last = band.of_row(i)
        return jnp.minimum(first + s, last)

    spec = specs(x, band, lambda i, phase, s: i, column)
    sums = array((batch, time, heads), problem.acc)
    y, lse = pl.pallas_call(
        functools.partial(_forward_kernel, problem),
        grid=(batch, band.rows, 2, band.row_steps()),
        in_specs=spec.operands(),
        out_specs=[spec.y, spec.sums],
        out_shape=[array((batch, heads, time, value), x.v.dtype), sums],
        scratch_shapes=[
            *[pltpu.VMEM((heads, band.queries, 1), problem.acc)] * 2,
            pltpu.VMEM((heads, band.queries, value), problem.acc),
        ],
        compiler_params=ORDER,
        cost_estimate=cost(problem, x, Work(2, 1, 2, 1, 0, 0, 2), traffic(x, x.v, sums)),
        interpret=problem.interpret,
        name="composed_attention",
    )(*x)
    return y, lse


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
    top: Ref,
    total: Ref,
    out: Ref,
) -> None:
    row, phase, s = (pl.program_id(axis) for axis in (1, 2, 3))
    first, last = problem.band.of_row(row)
    column, ends = first + s, s == pl.num_programs(3) - 1

    @pl.when((phase == 0) & (s == 0))
    def _() -> None:
        top[...], total[...] = jnp.full_like(top, LOWEST), jnp.zeros_like(total)
        out[...] = jnp.zeros_like(out)

    @pl.when((phase == 0) & (column <= last))
    def _() -> None:
        t = tile(problem, Operands(q, k, v, low, qs, ks, ws), row, column)
        scores = jnp.where(t.seen, mixed(problem.composed.before, t.scores, t.before), LOWEST)
        top[...], total[...] = summed(scores, t.seen, top[...], total[...])

    @pl.when((phase == 0) & ends)
    def _() -> None:
        lse[0] = lanes_of(logarithm(top[...], total[...], 0))

    @pl.when((phase == 1) & (column <= last))
    def _() -> None:
        t = tile(problem, Operands(q, k, v, low, qs, ks, ws), row, column)
        p = mixed(problem.composed.after, t.weights(problem, column_of(lse[0])), t.after)
        out[...] += batched(p.astype(v.dtype), v[0], 2, 1)

    @pl.when((phase == 1) & ends)
    def _() -> None:
        y[0] = out[...].astype(y.dtype)
