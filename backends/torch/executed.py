"""The matrix operations of the PyTorch kernels, for one whole document of at least two tokens."""

from __future__ import annotations

from math import inf
from typing import Literal

from archc.emit.executed import Heads, Matrix
from archc.ops.support import Support

SMALLEST_BLOCK = 64  # attention.py: queries of a window block
CHUNK = 64  # chunked_scan.py: tokens
ROWS = 128  # pairs.py: queries of a block


class TorchKernels:
    """See `archc.emit.executed.Kernels`."""

    def attention_pairs(self, time: int, window: int | None) -> int:
        """T x T, or blocks of queries against their own keys and those of the block before."""
        if window is None or window >= time:
            return time * time
        size = max(window, SMALLEST_BLOCK)
        first = min(size, time)
        return first * first + -(-(time - first) // size) * size * 2 * size

    def attention_again(self, time: int, window: int | None) -> bool:
        """The framework's attention keeps or repeats what it wants; its own counter counts no repetition."""
        return False

    def row_pairs(self, time: int, support: Support) -> int:
        """Blocks of queries against every key between the first that one of them sees and the last."""
        pairs = 0
        for first in range(0, time, ROWS):
            end = min(first + ROWS, time)
            start = 0 if support.back == inf else max(0, first - int(support.back) + 1)
            stop = time if support.ahead == inf else min(time, end + int(support.ahead))
            pairs += (end - first) * (stop - start)
        return pairs

    def selective(self, time: int, channels: int, states: int) -> Matrix:
        """The read-out is a product; backwards there are those of the queries, of the keys and of the input."""
        forward = 2 * time * channels * states
        return Matrix(forward, 3 * forward)

    def chunked(self, kind: Literal["chunked", "chunked_key"], time: int, sizes: Heads) -> Matrix:
        """Scores and their mix inside of chunks, states into and out of them; all of it again in the backward pass.

        With a decay per key scores are joined from halves, Q (Q - 1) K multiply-adds; the last product, of the states,
        is not needed again.
        """
        size = min(CHUNK, 1 << (time - 1).bit_length())
        heads, key, value = sizes.groups * sizes.heads, sizes.key, sizes.value
        mix, state = 2 * heads * size * size * value, 2 * heads * size * key * value
        if kind == "chunked":
            scores = 2 * (sizes.groups if sizes.shared else heads) * size * size * key
            once = 0
        else:
            scores, once = heads * size * (size - 1) * key, state
        forward = scores + mix + 2 * state
        return Matrix(forward, 2 * forward, forward - once) * -(-time // size)
