"""Attention whose heads are composed, before and after the softmax: pairs of all heads in one tile of one kernel.

s = scale q . k; s = before(s); p = softmax(s) over the keys that a query sees; p = after(p); y = sum over keys of p v

Where there is no kernel the program runs for blocks of queries.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from kernels.pairs import Keys, Rows, over_rows
from kernels.tiles import Arrays, Machine


class Mix(NamedTuple):
    """A composition of heads: what every pair of query and key does to its scores (or weights) of all heads.

    It is zero where its pairs are zero. sides: a letter for each token that it reads, "q" or "k", whose side it lies
    on. shapes: a letter for each weight that it reads, "p" for planes [*axes, heads or 1], "m" for a matrix from heads
    to heads.

    mix: `(a, qs, ks, ws) -> a'` on tiles in at least single precision. a: [heads, queries, keys]. Every token is cut
    along its axes before heads, row-major, into planes: qs of [heads or 1, queries, 1], ks of [heads or 1, 1, keys], ws
    of [heads or 1, 1, 1], matrices in ws as they are. In heads that only fill up a tile everything handed in is zero.
    grad: `(a, qs, ks, ws, d) -> (da, dqs, dks, dws)`, in the shapes of what came in.
    """

    sides: str
    shapes: str
    mix: Callable[[jax.Array, Arrays, Arrays, Arrays], jax.Array]
    grad: Callable[[jax.Array, Arrays, Arrays, Arrays, jax.Array], tuple[jax.Array, Arrays, Arrays, Arrays]]


class Composed(NamedTuple):
    """The compositions before and after the softmax; None: the heads as they are."""

    before: Mix | None = None
    after: Mix | None = None


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
    return over_rows(program, keys, before=before)
