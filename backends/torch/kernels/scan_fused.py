"""The linear scan on a GPU: the kernel of gated scans, with gates that do nothing."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
from kernels.gated import Gates, gated_scan
from torch import Tensor


@triton.jit
def given(x, w, first):
    """Gates of a scan whose inputs (u, a) are there already."""
    return x[1], x[0]


@triton.jit
def given_grad(x, w, first, da, du):
    """The gradient of `given`."""
    return (du, da), ()


@triton.jit
def constant(x, w, first):
    """Gates of a scan of u with one decay a channel."""
    return w[0], x[0]


@triton.jit
def constant_grad(x, w, first, da, du):
    """The gradient of `constant`."""
    return (du,), (da,)


def _linear(*x: Tensor) -> tuple[Tensor, Tensor]:
    return x[1], x[0]


GIVEN = Gates(_linear, given, given_grad)
CONSTANT = Gates(_linear, constant, constant_grad)


def fused_scan(a: Tensor | complex, u: Tensor, pos: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """See `kernels.scan.scan`; a is real, and constant over time if it has no axes but those of a token."""
    if not isinstance(a, Tensor):
        a = torch.full((), a, dtype=torch.promote_types(u.dtype, torch.float32), device=u.device)
    if a.dim() > u.dim() - 2:
        return gated_scan(GIVEN, (u, a), (), pos, state)
    return gated_scan(CONSTANT, (u,), (a,), pos, state)
