"""Matrix operations of a scan of outer products, as torch's counter wants them."""

from math import prod
from typing import Any, NamedTuple

from kernels.chunk_sizes import counted_length


class Shapes(NamedTuple):
    """Of keys [B, T, k_heads, K], values [B, T, heads, V] and queries [B, T, q_heads, K]."""

    k: Any
    v: Any
    q: Any

    @property
    def chunks(self) -> tuple[int, int]:
        """Tokens of a chunk and chunks of all sequences, as the convention has them: see archc's count of what runs."""
        size = counted_length(self.v[1])
        return size, self.v[0] * -(-self.v[1] // size)


def forward_flops(given: Any, shapes: Shapes, per_key: bool) -> int:
    """Scores and their mix inside of chunks, states into and out of them; of one token an update and a read-out.

    given: see `gated_operator`, with shapes in the place of tensors.
    """
    if given.one_token:
        return 4 * prod(given.start)
    k, v, q = shapes
    size, chunks = shapes.chunks
    scores = v[2] * size * (size - 1) // 2 if per_key else max(k[2], q[2]) * size * size
    return int(2 * chunks * (scores * k[3] + v[2] * v[3] * size * (size + 2 * k[3])))


def backward_flops(given: Any, shapes: Shapes, per_key: bool) -> int:
    """Two gradients of every product, and the forward work once more; with a decay per key all but the last state."""
    k, v, _ = shapes
    size, chunks = shapes.chunks
    again = 2 * chunks * v[2] * size * k[3] * v[3] if per_key else 0
    return 3 * forward_flops(given, shapes, per_key) - int(again)
