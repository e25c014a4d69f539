"""The matrix operations of the PyTorch kernels, for one whole document of at least two tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from archc.backends.torch.kernels.chunk_sizes import chunk_length, counted_length, key_parts

from archc.emit.executed import Heads, Matrix, Rows
from archc.ops.support import Support

SMALLEST_BLOCK = 64  # attention.py: queries of a window block
QUERIES = 128  # pairs.py: queries of a block


@dataclass(frozen=True)
class TorchKernels:
    """See `archc.emit.executed.Kernels`. fused: what the operators over kernels of a GPU tell the counter."""

    fused: bool = False
    skips_starts = True

    def attention(self, time: int, causal: bool, window: int | None, dim: int, value: int) -> Matrix:
        """T x T pairs, or blocks of queries against their own keys and those of the block before.

        Keys and values are padded to one size. What a fused kernel repeats is its own affair.
        """
        pairs = time * time
        if window is not None and window < time:
            size = max(window, SMALLEST_BLOCK)
            first = min(size, time)
            pairs = first * first + -(-(time - first) // size) * size * 2 * size
        forward = 4 * pairs * max(dim, value)
        return Matrix(forward, 2 * forward)

    def rows(self, time: int, support: Support) -> Rows:
        """Blocks of queries against every key between the first that one of them sees and the last."""
        pairs = keys = 0
        for first in range(0, time, QUERIES):
            end = min(first + QUERIES, time)
            start = 0 if support.back == inf else max(0, first - int(support.back) + 1)
            stop = time if support.ahead == inf else min(time, end + int(support.ahead))
            pairs += (end - first) * (stop - start)
            keys += stop - start
        return Rows(pairs, keys, again=True)

    def selective(self, time: int, channels: int, states: int) -> Matrix:
        """The read-out is a product; backwards there are those of the queries, of the keys and of the input."""
        forward = 2 * time * channels * states
        return Matrix(forward, 3 * forward)

    def long_convolution(self, time: int, channels: int, states: int) -> Matrix:
        """The impulse response: powers within blocks of about sqrt(T) tokens with those at the beginnings of blocks."""
        side = 1 << (time.bit_length() + 1) // 2
        forward = 2 * channels * states * side * -(-time // side)
        return Matrix(forward, 2 * forward)

    def chunked(self, kind: Literal["chunked", "chunked_key"], time: int, sizes: Heads) -> Matrix:
        """Scores and their mix inside of chunks, states into and out of them; all of it again in the backward pass.

        With a decay per key scores are joined from halves, Q (Q - 1) K multiply-adds; the last product, of the states,
        is not needed again. A normaliser is one more value. On a GPU it is sums, and many keys run in parts, which are
        heads of their own.
        """
        value = sizes.value + (sizes.normalised and not self.fused)
        size = chunk_length(time, sizes.key, value)
        if self.fused:
            size = counted_length(time)
            parts, key = key_parts(sizes.key)
            sizes = replace(sizes, heads=parts * sizes.heads, key=key, shared=sizes.shared and parts == 1)
        heads, key = sizes.groups * sizes.heads, sizes.key
        mix, state = 2 * heads * size * size * value, 2 * heads * size * key * value
        if kind == "chunked":
            scores = 2 * (sizes.groups if sizes.shared else heads) * size * size * key
            once = 0
        else:
            scores, once = heads * size * (size - 1) * key, state
        forward = scores + mix + 2 * state
        return Matrix(forward, 2 * forward, forward - once) * -(-time // size)

    def delta(self, time: int, heads: int, key: int, value: int) -> Matrix:
        """Scores of corrections and of queries, what the latter make of values, states read twice and added to.

        Backwards a triangular system is one more product, and the last, of queries with states, is not needed again.
        Nothing needs a gradient of the first state, nor the last state.
        """
        size = chunk_length(time, key, value)
        count, state = -(-time // size), 2 * heads * size * key * value
        forward = heads * size * size * (4 * key + 2 * value) + 3 * state
        solved = 2 * heads * size * size * (key + value)
        whole = Matrix(forward, 2 * forward + solved, forward - state) * count
        return whole + Matrix(0, -state * (4 if count == 1 else 3))
