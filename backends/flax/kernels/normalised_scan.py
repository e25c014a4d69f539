"""Scans of outer products with a normaliser: what the same queries read of the sums of the keys alone."""

import jax
import jax.numpy as jnp
from kernels.blocks_gpu import machine_of
from kernels.chunk_gates import given
from kernels.chunk_kernels import fused, kernel_on
from kernels.chunked_scan import chunked_scan
from kernels.normalised_chunk import State
from kernels.tiles import Arrays, Gates, Machine, accumulator, machine, with_numbers

States = tuple[jax.Array | None, jax.Array | None]
NOTHING: States = (None, None)


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
    log_a = jnp.broadcast_to(log_a, v.shape[:-1])
    kernel = kernel_on(machine(impl, v.shape[1]), k.shape[-1])
    if kernel is None:
        (y, norm), last = _scan(log_a, k, v, q, pos, states)
    else:
        gates, x = given(per_key=False, normalised=True), (v, log_a[..., None])
        (y, norm), after = fused(kernel, gates, x, (), (k, q), k.shape[-1], pos, *states, interpret=interpret)
        last = _pair(after)
    return (y, norm.astype(jnp.promote_types(k.dtype, q.dtype))), last


def gated_normalised_scan(
    gates: Gates,
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
    gates = with_numbers(gates, numbers)
    kernel = kernel_on(machine_of(gates, x, w, impl), k.shape[-1])
    if kernel is not None:
        o, after = fused(kernel, gates, x, w, (k, q), k.shape[-1], pos, *states, interpret=interpret)
        return o, _pair(after)
    shape = jnp.broadcast_shapes(*(z.shape for z in x))
    acc = accumulator(*x, *w)
    exact, weights = tuple(z.astype(acc) for z in x), tuple(z.astype(acc) for z in w)
    log_a, v = gates.gates(exact, weights, (pos == 0).reshape(-1, shape[1], 1, 1, 1))
    decays = jnp.broadcast_to(log_a, (*shape[:-1], 1))[..., 0]
    (y, norm), last = _scan(decays, k, jnp.broadcast_to(v, shape), q, pos, states)
    assert gates.out is not None
    return gates.out(y, (*exact, norm[..., None]), weights).astype(x[0].dtype), last


def _pair(after: State | None) -> States:
    """The last states as a decoder keeps them."""
    return NOTHING if after is None else (after.S, after.sums)


def _scan(
    log_a: jax.Array, k: jax.Array, v: jax.Array, q: jax.Array, pos: jax.Array, states: States
) -> tuple[tuple[jax.Array, jax.Array], States]:
    """As array code: what is read in v's dtype and, of the keys alone, in at least single precision; the last states.

    The normaliser is one more column of values, which are one. A single token has it apart, so that no state is copied.
    """
    S, z = states
    exact = v.astype(accumulator(v))
    ones = jnp.ones((*v.shape[:-1], 1), exact.dtype)
    sums = None if z is None else z[..., None]
    if v.shape[1] == 1:
        y, S = chunked_scan(log_a, k, v, q, pos, S, impl="xla")
        norm, sums = chunked_scan(log_a, k, ones, q, pos, sums, impl="xla")
        return (y, norm[..., 0]), (S, None if sums is None else sums[..., 0])
    before = None if S is None or sums is None else jnp.concatenate([S, sums], -1)
    both, last = chunked_scan(log_a, k, jnp.concatenate([exact, ones], -1), q, pos, before, impl="xla")
    read = both[..., :-1].astype(v.dtype), both[..., -1]
    return read, NOTHING if last is None else (last[..., :-1], last[..., -1])
