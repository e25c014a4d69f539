"""What the operator of a scan of outer products with a decay per head is given beside `Given`, and what it gives."""

from typing import NamedTuple

from torch import Tensor


class Outer(NamedTuple):
    """What a kernel takes as it is: keys and queries [B, T, k_heads or q_heads, K]; sums [B, heads, K] come in, too, if
    there is a normaliser and a state.
    """

    k: Tensor
    q: Tensor
    sums: Tensor | None = None


class Result(NamedTuple):
    """y [B, T, heads, V], or going back its gradient, and the last state [B, heads, K, V]; if there is a normaliser,
    this, norm [B, T, heads], and the last sums of keys [B, heads, K]; kept: what was read from the state, like y. What
    nobody wants has no elements.
    """

    y: Tensor
    last: Tensor
    norm: Tensor
    last_sums: Tensor
    kept: Tensor


class Last(NamedTuple):
    """Besides, for the gradients: those of the results between y and kept, if there are any."""

    dlast: Tensor | None
    d_norm: Tensor | None
    d_last_sums: Tensor | None
