"""Scans of outer products with a normaliser: what the same queries read of the sums of the keys alone."""

from collections.abc import Sequence

import torch
from kernels.chunked_fused import fused_normalised_chunked_scan
from kernels.chunked_gates import ChunkedGates, fused_normalised_scan
from kernels.chunked_scan import chunked_scan
from kernels.operators import runs_fused
from torch import Tensor

States = tuple[Tensor | None, Tensor | None]
NOTHING: States = (None, None)


def normalised_chunked_scan(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, states: States = NOTHING
) -> tuple[tuple[Tensor, Tensor], States]:
    """`chunked_scan`, and of its keys `z[t] = exp(log_a[t]) z[t-1] + k[t]`, `norm[t] = q[t] . z[t]`.

    That is what linear attention divides by (Katharopoulos et al. 2020, arXiv:2006.16236, equation 9). states: S
    [B, G, H, K, V] and z [B, G, H, K], or neither. The rest is as for `chunked_scan`.
    Returns y like v with norm [B, T, G, H] in the dtype of queries times keys, and the last states.
    """
    (y, norm), last = _scan(log_a, k, v, q, pos, states)
    return (y, norm.to(torch.promote_types(k.dtype, q.dtype))), last


def gated_normalised_scan(
    gates: ChunkedGates,
    x: Sequence[Tensor],
    w: Sequence[Tensor],
    k: Tensor,
    q: Tensor,
    pos: Tensor,
    states: States = NOTHING,
    *,
    numbers: Sequence[float] = (),
) -> tuple[Tensor, States]:
    """`gated_chunked_scan` whose gates behind the scan take the normaliser [B, T, G, H, 1], too, as the last of x."""
    if runs_fused(x[0]):
        (out, _), last = fused_normalised_scan(gates, x, w, k, q, pos, states, numbers)
        return out, last
    log_a, v = gates.plain(*x, *w, *numbers, (pos == 0).expand(x[0].shape[:2])[..., None, None, None])
    decays = (v.new_zeros(()) + log_a).expand(*x[0].shape[:-1], 1)[..., 0]
    (y, norm), last = _scan(decays, k, v.expand(x[0].shape), q, pos, states)
    assert gates.read is not None
    return gates.read.plain(y, *x, norm[..., None], *w, *numbers).to(x[0].dtype), last


def _scan(
    log_a: Tensor, k: Tensor, v: Tensor, q: Tensor, pos: Tensor, states: States
) -> tuple[tuple[Tensor, Tensor], States]:
    """What is read in v's dtype and, of the keys alone, in at least single precision; the last states.

    The normaliser is one more column of values, which are one. A single token has it apart, so that no state is copied.
    """
    if runs_fused(v):
        return fused_normalised_chunked_scan(log_a, k, v, q, pos, states)
    S, z = states
    exact = v.to(torch.promote_types(v.dtype, torch.float32))
    ones = exact.new_ones(()).expand(*v.shape[:-1], 1)
    if S is None or z is None:
        both, _ = chunked_scan(log_a, k, torch.cat([exact, ones], -1), q, pos)
        return (both[..., :-1].to(v.dtype), both[..., -1]), NOTHING
    if v.shape[1] == 1:
        y, S = chunked_scan(log_a, k, v, q, pos, S)
        norm, last = chunked_scan(log_a, k, ones, q, pos, z[..., None])
        assert last is not None
        return (y, norm[..., 0]), (S, last[..., 0])
    both, last = chunked_scan(log_a, k, torch.cat([exact, ones], -1), q, pos, torch.cat([S, z[..., None]], -1))
    assert last is not None
    return (both[..., :-1].to(v.dtype), both[..., -1]), (last[..., :-1], last[..., -1])
