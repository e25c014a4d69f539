"""Scans of outer products with a normaliser: what the same queries read of the sums of the keys alone."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from kernels.chunked_scan import chunked_scan
from kernels.tiles import Arrays, Machine, accumulator, machine

States = tuple[jax.Array | None, jax.Array | None]
NOTHING: States = (None, None)


class NormalisedGates(NamedTuple):
    """The equations around such a scan, on whole arrays.

    gates(x, w, first) -> (log_a, v), the log decay of a head and the values; out(y, x, w) -> o, where the normaliser is
    the last of x.
    """

    gates: Callable[[Arrays, Arrays, jax.Array], tuple[jax.Array, jax.Array]]
    out: Callable[[jax.Array, Arrays, Arrays], jax.Array]


def normalised_chunked_scan(
    log_a: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q: jax.Array,
    pos: jax.Array,
    states: States = NOTHING,
    *,
    impl: Machine | None = None,
    interpret: bool = False,
) -> tuple[tuple[jax.Array, jax.Array], States]:
    """`chunked_scan`, and of its keys z[t] = exp(log_a[t]) z[t-1] + k[t] and norm[t] = q[t] . z[t].

    That is what linear attention divides by (Katharopoulos et al. 2020, arXiv:2006.16236, equation 9). states: S
    [B, G, H, K, V] and z [B, G, H, K] of the token before, or neither. The rest is as for `chunked_scan`.
    Returns y like v with norm [B, T, G, H] in the dtype of queries times keys, and the last states.
    """
    (y, norm), last = _scan(log_a, k, v, q, pos, states, impl, interpret)
    return (y, norm.astype(jnp.promote_types(k.dtype, q.dtype))), last


def gated_normalised_scan(
    gates: NormalisedGates,
    x: Arrays,
    w: Arrays,
    k: jax.Array,
    q: jax.Array,
    pos: jax.Array,
    states: States = NOTHING,
    *,
    numbers: tuple[float, ...] = (),
    impl: Machine | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, States]:
    """`gated_chunked_scan` whose gates behind the scan take the normaliser [B, T, G, H, 1], too, as the last of x."""
    shape = jnp.broadcast_shapes(*(z.shape for z in x))
    acc = accumulator(*x, *w)
    exact, weights = tuple(z.astype(acc) for z in x), (*(z.astype(acc) for z in w), *numbers)
    log_a, v = gates.gates(exact, weights, (pos == 0).reshape(-1, shape[1], 1, 1, 1))
    decays = jnp.broadcast_to(log_a, (*shape[:-1], 1))[..., 0]
    (y, norm), last = _scan(decays, k, jnp.broadcast_to(v, shape), q, pos, states, impl, interpret)
    return gates.out(y, (*exact, norm[..., None]), weights).astype(x[0].dtype), last


def _scan(
    log_a: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q: jax.Array,
    pos: jax.Array,
    states: States,
    impl: Machine | None,
    interpret: bool,
) -> tuple[tuple[jax.Array, jax.Array], States]:
    """What is read in v's dtype and, of the keys alone, in at least single precision; the last states.

    The normaliser is one more column of values, which are one. A single token has it apart, so that no state is copied;
    and so has a kernel, whose tile would double.
    """
    S, z = states
    exact = v.astype(accumulator(v))
    ones = jnp.ones((*v.shape[:-1], 1), exact.dtype)
    sums = None if z is None else z[..., None]
    if v.shape[1] == 1 or machine(impl, v.shape[1]) != "xla":
        y, S = chunked_scan(log_a, k, v, q, pos, S, impl=impl, interpret=interpret)
        norm, sums = chunked_scan(log_a, k, ones, q, pos, sums, impl=impl, interpret=interpret)
        return (y, norm[..., 0]), (S, None if sums is None else sums[..., 0])
    before = None if S is None or sums is None else jnp.concatenate([S, sums], -1)
    both, last = chunked_scan(log_a, k, jnp.concatenate([exact, ones], -1), q, pos, before, impl=impl)
    read = both[..., :-1].astype(v.dtype), both[..., -1]
    return read, NOTHING if last is None else (last[..., :-1], last[..., -1])
