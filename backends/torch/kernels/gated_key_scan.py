"""The scan of outer products with a decay per key and the equations around it: one kernel, or operations on tensors."""

from collections.abc import Sequence

from kernels.chunked_key_gates import ChunkedKeyGates, fused_key_scan
from kernels.chunked_scan import chunked_key_scan
from kernels.operators import runs_fused
from torch import Tensor


def gated_chunked_key_scan(
    gates: ChunkedKeyGates,
    x: Sequence[Tensor],
    w: Sequence[Tensor],
    pos: Tensor,
    state: Tensor | None = None,
    *,
    numbers: Sequence[float] = (),
) -> tuple[Tensor, Tensor | None]:
    """`chunked_key_scan` of `log_a, k, v, q = gates(x, w)`, and what the gates make of its y; on a GPU one kernel.

    x: tokens [B, T, G, H, V] or [B, T, G, H, K], or 1 for what a head has, w: weights [G, H, V] and so on; both with 1
    for groups or heads that share one. x[0] is of the values, in full. numbers: those of the gates. pos, state: as for
    `chunked_key_scan`. Where the gates say so, y is read before the update, and a bonus is added, (q . b) v.
    Returns y in the dtype of x[0], and the last state.
    """
    if runs_fused(x[0]):
        return fused_key_scan(gates, x, w, pos, state, numbers)
    shape = x[0].shape
    log_a, k, v, q, *bonus = gates.plain(*x, *w, *numbers, (pos == 0).expand(shape[:2])[..., None, None, None])
    k, v, q, *bonus = (z.expand(*shape[:2], *z.shape[-3:]) for z in (k, v, q, *bonus))
    v = v.expand(shape)
    y, last = chunked_key_scan(log_a.expand(*shape[:-1], k.shape[-1]), k, v, q, pos, state, before=gates.before)
    for b in bonus:
        y = y + (q * b).sum(-1, keepdim=True) * v
    return (y if gates.read is None else gates.read.plain(y, *x, *w, *numbers)).to(x[0].dtype), last
