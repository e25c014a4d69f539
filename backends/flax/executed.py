"""The matrix operations of the Flax kernels, for one whole document of at least two tokens."""

from __future__ import annotations

from math import inf
from typing import Literal

from archc.backends.flax.kernels.chunk_sizes import chunk_length, key_chunk_length

from archc.emit.executed import Heads, Matrix, Rows
from archc.ops.support import Support

BLOCK = 256  # attention.py: queries of a block, fewer for a short window
PARTS = 4  # attention.py, pairs.py: of a long causal sequence without a window
QUERIES = 128  # pairs.py: queries of a block


class FlaxKernels:
    """See `archc.emit.executed.Kernels`."""

    skips_starts = False

    def attention(self, time: int, causal: bool, window: int | None, dim: int, value: int) -> Matrix:
        """T x T pairs of a short sequence, else blocks of queries with the keys that they can see; scores run twice."""
        window = None if window is None or window >= time else window
        pairs = time * time
        if time > BLOCK:
            size = BLOCK if window is None else min(BLOCK, -(-window // 64) * 64)
            pairs = 0
            for first, end in _parts(time, BLOCK, causal and window is None):
                keys = end if window is None else min(end, size + window - 1)
                pairs += -(-(end - first) // size) * size * keys
        scores, mix = 2 * pairs * dim, 2 * pairs * value
        return Matrix(scores + mix, 2 * (scores + mix), scores)

    def rows(self, time: int, support: Support) -> Rows:
        """T x T pairs of a short sequence, else blocks of queries of one size with as many keys each."""
        if time <= QUERIES:
            return Rows(time * time, time, again=False)
        back, ahead = support.back, support.ahead
        pairs = seen = 0
        for first, end in _parts(time, QUERIES, back == inf and ahead != inf):
            stop = time if ahead == inf else min(time, end + int(ahead))
            block = min(QUERIES, end - first)
            keys = stop if back == inf or ahead == inf else min(stop, int(back) - 1 + block + int(ahead))
            blocks = -(-(end - first) // block)
            pairs += blocks * block * keys
            seen += blocks * keys
        return Rows(pairs, seen, again=True)

    def selective(self, time: int, channels: int, states: int) -> Matrix:
        """Nothing: its read-out is a sum."""
        return Matrix()

    def long_convolution(self, time: int, channels: int, states: int) -> Matrix:
        """The impulse response: powers within blocks of about sqrt(T) tokens with those at the beginnings of blocks."""
        side = 1 << (time.bit_length() + 1) // 2
        forward = 2 * channels * states * side * -(-time // side)
        return Matrix(forward, 2 * forward)

    def chunked(self, kind: Literal["chunked", "chunked_key"], time: int, sizes: Heads) -> Matrix:
        """Scores and their mix inside of chunks, states into and out of them.

        Of the forward work the backward pass needs the scores again, and, for the decay of a head, what the state
        before the chunk gives. A normaliser is one more value.
        """
        keyed, value = kind == "chunked_key", sizes.value + sizes.normalised
        size = key_chunk_length(time, value) if keyed else chunk_length(time, sizes.key, value)
        heads, key = sizes.groups * sizes.heads, sizes.key
        shared = sizes.shared and kind == "chunked"
        scores = 2 * (sizes.groups if shared else heads) * size * size * key
        mix, state = 2 * heads * size * size * value, 2 * heads * size * key * value
        forward = scores + mix + 2 * state
        again = scores + (state if kind == "chunked" and sizes.learned else 0)
        return Matrix(forward, 2 * forward, again) * -(-time // size)

    def delta(self, time: int, heads: int, key: int, value: int) -> Matrix:
        """Scores of corrections and of queries, what the latter make of values, states read twice and added to.

        Backwards a triangular system is one more product; scores and corrections are needed again.
        """
        size = chunk_length(time, key, value)
        scores, state = 4 * heads * size * size * key, 2 * heads * size * key * value
        mix = 2 * heads * size * size * value
        forward = scores + mix + 3 * state
        return Matrix(forward, 2 * forward + mix, scores + state) * -(-time // size)


def _parts(time: int, block: int, growing: bool) -> list[tuple[int, int]]:
    """Where the parts of a sequence begin and end: each reads only the keys before its end, if they grow."""
    part = -(-time // (PARTS * block)) * block if growing else time
    return [(i, min(i + part, time)) for i in range(0, time, part)]
