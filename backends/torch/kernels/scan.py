"""First-order recurrences over time: the linear scan and the max-plus scan, with restarts and states."""

from kernels.operators import TRITON, runs_fused
from kernels.recurrence import linear_scan, maxscan
from torch import Tensor

if TRITON:
    from kernels.scan_fused import fused_scan

__all__ = ["maxscan", "scan"]


def scan(a: Tensor | complex, u: Tensor, pos: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """`h[t] = a[t] h[t-1] + u[t]`, restarting from zero where `pos == 0`.

    a: a number, or a tensor that broadcasts against u from the right ([C], [T, C], [B, T, H, 1], ...).
    u: [B, T, *axes]. pos: [T] (whole documents, the state is not read) or [B, T]. state: [B, *axes] or None.
    Returns h [B, T, *axes] in the dtype of u (complex if a is), and h[T-1] in at least single precision.
    """
    complex_decay = a.is_complex() if isinstance(a, Tensor) else isinstance(a, complex)
    if runs_fused(u) and not complex_decay:
        return fused_scan(a, u, pos, state)
    return linear_scan(a, u, pos, state)
