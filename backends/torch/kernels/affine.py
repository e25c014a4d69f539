"""`x @ W + b` in one operation, forward and backward."""
# mypy: disable-error-code="no-untyped-call"

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGE = 2**27  # multiply-adds from which oneDNN's products are the faster ones
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def affine(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """`x @ W + b`: x [*, in], W [in, out], b [out].

    By itself the sum is one kernel more and a pass over the whole result. `F.linear` wants its matrix as [out, in] and
    turns it back: neither moves a number. Large products on a CPU are oneDNN's: on processors of AMD they take nine
    tenths of the time of those that `@` and `F.linear` stand for.
    """
    if _suits_onednn(x, W, b):
        y: Tensor = _OneDnn.apply(x, W, b)
        return y
    return F.linear(x, W.T, b)


def _suits_onednn(x: Tensor, W: Tensor, b: Tensor) -> bool:
    return (
        ONEDNN
        and x.is_cpu
        and x.numel() * W.shape[1] >= LARGE
        and all(t.dtype == torch.float32 and type(t) in (Tensor, nn.Parameter) for t in (x, W, b))
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


class _OneDnn(torch.autograd.Function):
    """`x @ W + b` by oneDNN. Its gradients are such products again, so that they can be differentiated too."""

    @staticmethod
    def forward(x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, W.T, b, "none", [], "")
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, W, _ = inputs
        ctx.save_for_backward(x, W)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = gradients
        x, W = ctx.saved_tensors
        wants_x, wants_W, wants_b = ctx.needs_input_grad
        rows = dy.flatten(0, -2)
        return (
            _product(dy, W.T) if wants_x else None,
            _product(x.flatten(0, -2).T, rows) if wants_W else None,
            rows.sum(0) if wants_b else None,
        )


def _product(x: Tensor, W: Tensor) -> Tensor:
    product: Tensor = _OneDnn.apply(x, W, None)
    return product


if ONEDNN:
    from torch.utils.flop_counter import flop_registry, register_flop_formula  # imports Triton

    if torch.ops.mkldnn._linear_pointwise not in flop_registry:  # by another project in the process

        @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
        def _work(x: list[int], W: list[int], *_: Any, out_shape: list[int], **__: Any) -> int:
            return 2 * prod(x) * W[0]
