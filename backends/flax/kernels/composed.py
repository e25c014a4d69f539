"""Attention whose heads are composed, before and after the softmax: pairs of all heads in one tile of one kernel.

s = scale q . k; s = before(s); p = softmax(s) over the keys that a query sees; p = after(p); y = sum over keys of p v

On a TPU no pair is ever in memory, forward or backward; on a GPU those of one block of keys for each block of queries.
Elsewhere, for a single token and where a tile of all heads does not fit, the program runs for blocks of queries.
"""

from collections.abc import Callable

import jax
from kernels.composed_gpu import composed_attention_gpu, lowers
from kernels.composed_tiles import Composed, Mix
from kernels.composed_tpu import composed_attention_tpu, queries_of_tile
from kernels.pairs import Keys, Rows, over_rows
from kernels.tiles import Arrays, Machine, machine

__all__ = ["Composed", "Mix", "composed_attention"]


def composed_attention(
    program: Callable[[Rows], jax.Array],
    composed: Composed,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    keys: Keys,
    *,
    tokens: Arrays = (),
    weights: Arrays = (),
    scale: float = 1.0,
    before: int | None = None,
    impl: Machine | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Run a pair program of the form above: [B, T, heads, value], in the dtype of v; zero for a query without keys.

    program: the same on `Rows`. q: [B, T, heads, dim]. k: [B, S, heads, dim], v: [B, S, heads, value], as remembered;
    keys: where they lie. tokens: those of `composed.before`, then those of `composed.after`, on the query side
    [B, T, *axes, heads or 1], on the key side [B, S, *axes, heads or 1]. weights: likewise, [*axes, heads or 1] or
    [heads, heads]. What both compositions read is there twice. before: how many keys behind its own a query sees, None
    for all; none ahead. impl, interpret: for tests, the kernel of another machine.
    """
    chosen = machine(impl, q.shape[1]) if keys.ring is None else "xla"
    queries = queries_of_tile(q, v, tokens)
    given = composed, q, k, v, keys.pos, tokens, weights
    if chosen == "tpu" and queries is not None:
        return composed_attention_tpu(*given, scale=scale, behind=before, queries=queries, interpret=interpret)
    if chosen == "gpu" and lowers(composed, tokens, weights):
        return composed_attention_gpu(*given, scale=scale, behind=before, interpret=interpret)
    return over_rows(program, keys, before=before)
