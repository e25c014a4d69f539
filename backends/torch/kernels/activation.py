"""What follows a causal convolution in its kernel, and the operator that runs both as one."""
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kernels.operators import TRITON
from torch import Tensor

if TRITON:
    from kernels.conv_launch import CONV
    from kernels.gated_operator import register


@dataclass(frozen=True)
class Activation:
    """A result `o = plain(total, *x, *w, *numbers)` of the sum that a convolution is, element by element.

    plain: on whole tensors, total and tokens x [B, T, *axes], weights w [*axes]. device: `(total, x, w) -> o` on tiles,
    a Triton function, x and w being tuples, with the numbers behind the weights; grad: `(total, x, w, do) -> (dtotal,
    dx, dw)`. Both None where there is no Triton. needs_total: whether any of these derivatives depends on total.
    """

    plain: Callable[..., Tensor]
    device: Any = None
    grad: Any = None
    needs_total: bool = True
    fused: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        if TRITON:
            name = self.plain.__name__.strip("_").removeprefix("conv_")
            stem = "causal_conv" if self.plain is _none else f"causal_conv_{name}"
            object.__setattr__(self, "fused", register(stem, self, CONV))


def _none(total: Tensor) -> Tensor:
    return total


NONE = Activation(_none, needs_total=False)
