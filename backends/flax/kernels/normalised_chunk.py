"""One chunk of a scan of outer products with a normaliser, on the values that a kernel of any machine has of it.

What linear attention divides by is read of the sums of the keys alone (Katharopoulos et al. 2020, arXiv:2006.16236,
equation 9): a column of values that are one. So it is the sums of the rows of the scores, and what the queries read of
one row of keys; a column more in the products would fill a tile of its own.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from kernels.chunk import Gradients, Met, Rule, Turns, back_keys, back_queries, carry, head_rule, products, pull, read


class State(NamedTuple):
    """The state [V, K], and the sums of the keys [1, K]; or what a machine has of both."""

    S: Any
    sums: Any


class Read(NamedTuple):
    """What the queries read of the state [Q, V], and of the sums of the keys [Q, 1]; or what a machine has of both."""

    y: Any
    norm: Any


def matrix(state: Any) -> Any:
    """The state of the values, of either kind."""
    return state.S if isinstance(state, State) else state


def normalised_rule(turns: Turns) -> Rule:
    """That of one decay per head with a normaliser."""
    return head_rule(turns)._replace(
        name="normalised_chunked_scan",
        read=_read,
        carry=_carry,
        pull=lambda met, v, d: pull(met, v, d.y, d.norm),
        back_queries=_back_queries,
        fade=lambda S, dS: turns.whole(dS.S * S.S) + turns.whole(dS.sums * S.sums),
        back_keys=functools.partial(_back_keys, turns),
        products=lambda Q, K, V: products(1, Q, K, V + 1),
    )


def _read(met: Met, state: State, v: jax.Array) -> Read:
    norm = _of_rows(met.scores) + met.inward * _of_rows(met.q * state.sums)
    return Read(read(met, state.S, v), norm)


def _carry(met: Met, state: State, v: jax.Array) -> State:
    return State(carry(met, state.S, v), met.kept * state.sums + _of_columns(met.outward * met.k))


def _back_queries(met: Met, dscores: jax.Array, state: State, d: Read, found: Read) -> tuple[jax.Array, jax.Array]:
    return back_queries(met, dscores, state.S, d.y, found.y, d.norm * state.sums)


def _back_keys(
    turns: Turns,
    met: Met,
    dscores: jax.Array,
    fade: jax.Array,
    later: State,
    v: jax.Array,
    d: Read,
    share: jax.Array,
) -> Gradients:
    found = back_keys(turns, met, dscores, fade, later.S, v, d.y, share, later.sums)
    sums = met.kept * later.sums + _of_columns(met.inward * d.norm * met.q)
    return found._replace(S=State(found.S, sums))


def _of_rows(x: jax.Array) -> jax.Array:
    return jnp.sum(x, 1, keepdims=True)


def _of_columns(x: jax.Array) -> jax.Array:
    return jnp.sum(x, 0, keepdims=True)
