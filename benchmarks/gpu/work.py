"""The least that a pass has to do: bytes, products, results of the special function unit; and how long each takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HALF, SINGLE = 2, 4  # bytes


@dataclass(frozen=True)
class Work:
    """Of one pass over a whole shape.

    moved: bytes between the kernel and memory if everything is read and written once. products: floating-point
    operations of matrix products. special: exponentials, reciprocals, roots and logarithms.
    """

    moved: float
    products: float = 0.0
    special: float = 0.0

    def floors(self, ceilings: Mapping[str, float]) -> dict[str, float]:
        """Microseconds that each part takes at the speeds that this device was seen to reach."""
        parts = {"copy": self.moved, "product": self.products, "exponential": self.special}
        return {name: 1e6 * parts[name] / speed for name, speed in ceilings.items() if parts.get(name)}


@dataclass(frozen=True)
class Both:
    """The work of the forward pass alone, and of forward and backward together."""

    forward: Work
    backward: Work

    @property
    def together(self) -> Work:
        """What a training step does."""
        there, back = self.forward, self.backward
        return Work(there.moved + back.moved, there.products + back.products, there.special + back.special)


def element_wise(elements: int, inputs: int, special: float) -> Both:
    """A scan or a convolution in half precision: inputs read and one result written; backward the inputs and the
    gradient read and the inputs' gradients written, with the special functions computed again.
    """
    return Both(
        Work(HALF * elements * (inputs + 1), special=special * elements),
        Work(HALF * elements * (2 * inputs + 1), special=special * elements),
    )


def outer_products(batch: int, time: int, heads: int, key_heads: int, key: int, value: int, per_key: bool) -> Both:
    """A scan of outer products in chunks of 64 tokens, values and keys in half and log decays in single precision.

    Products: scores and their mix with values inside of a chunk, half of which is below the diagonal, and states into
    and out of it; backward twice that, and the forward work once more.
    """
    tokens, chunk = batch * time, 64
    read = heads * value * HALF + 2 * key_heads * key * HALF + heads * (key if per_key else 1) * SINGLE
    products = 2.0 * tokens * heads * (chunk / 2 * (key + value) + 2 * key * value)
    exponentials = tokens * heads * (4.0 * key if per_key else chunk / 2)
    return Both(
        Work(tokens * (read + heads * value * HALF), products, exponentials),
        Work(tokens * (2 * read + heads * value * HALF), 3 * products, exponentials),
    )


def pairs_of_heads(tokens: int, pairs: int, heads: int, dim: int, read: int) -> Both:
    """Attention whose heads are composed from `read` more numbers of a token, all in half precision.

    Products: scores and sums of values; backward the scores once more, and two gradients of each product. An
    exponential for each head and pair, both times. What composes heads is no product of matrices and is left out.
    """
    given, result, products = heads * dim * 3 + read, heads * dim, 4.0 * pairs * heads * dim
    return Both(
        Work(HALF * tokens * (given + result), products, pairs * heads),
        Work(HALF * tokens * (2 * given + result), 2.5 * products, pairs * heads),
    )
