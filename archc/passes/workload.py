"""What a cost is asked for: how many sequences, how long, training or decoding; and how many pairs that makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from archc.ops.support import Support

Pairs = Callable[[Any, Support], Any]
"""Pairs of query and key per sequence of that many tokens, where keys can be seen as far as the support says."""


@dataclass(frozen=True)
class Workload:
    """`batch` sequences of `time` tokens, or one more token each after `context` tokens when decoding.

    Numbers may be NumPy arrays of sweep points. `attention`: "full" counts every pair of a T x T (T x window) block, as
    framework counters do; "masked" only pairs that a mask lets through.
    """

    batch: Any = 1
    time: Any = 2048
    context: Any = 2048
    mode: Literal["forward", "train", "decode"] = "train"
    attention: Literal["full", "masked"] = "full"

    @property
    def tokens(self) -> Any:
        """Tokens computed."""
        return self.batch if self.mode == "decode" else self.batch * self.time

    def pairs(self, support: Support) -> Any:
        """Pairs computed per sequence."""
        if self.mode == "decode":
            return least(self.context, support.back)
        return full(self.time, support) if self.attention == "full" else masked(self.time, support)


def least(a: Any, b: Any) -> Any:
    """The smaller of two numbers, or of arrays element by element; whole numbers stay whole."""
    if isinstance(a, int | float) and isinstance(b, int | float):
        return min(a, b)
    import numpy as np  # only sweeps pay for it

    found = np.minimum(a, b)
    return found.astype(np.int64) if np.all(np.isfinite(found)) else found


def full(time: Any, support: Support) -> Any:
    """Every query with as many keys as a block holds: all, or the window.

    >>> full(10, Support(4, 0)), full(10, Support())
    (40, 100)
    """
    return time * least(time, support.back + support.ahead)


def masked(time: Any, support: Support) -> Any:
    """Exactly the pairs inside of the support.

    >>> masked(4, Support(float("inf"), 0)), masked(4, Support(2, 0)), masked(4, Support(2, 1))
    (10, 7, 10)
    """
    back, ahead = least(time, support.back), least(time - 1, support.ahead)
    behind = back * (back + 1) // 2 + (time - back) * back
    return behind + ahead * (ahead + 1) // 2 + (time - 1 - ahead) * ahead
