"""What follows a scan in its kernel: equations from its state, or what is read out of it, to the result."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class Read(NamedTuple):
    """A result `o = plain(y, *x, *w, *numbers)` of what a scan gives, y, and its device functions (None: no Triton).

    device: `(y, x, w) -> o`. grad: `(y, x, w, do) -> (dy, dx, dw)`. On tiles, x and w being tuples, with the numbers
    behind the weights. linear: whether dy is the same for every y; needs_y: whether any of dy, dx, dw is not.
    """

    plain: Callable[..., Tensor]
    device: Any = None
    grad: Any = None
    linear: bool = False
    needs_y: bool = True
