"""Masked tiles in the memory of a GPU, for kernels through Pallas and Triton: axes of tiles are powers of two."""

from typing import Any

import jax
from jax.experimental.pallas import triton as plgpu

Ref = Any  # an array in the memory of the machine
Refs = tuple[Ref, ...]


def power(size: int, least: int = 1) -> int:
    """The least power of two that is not below `size`, nor below `least`."""
    return max(least, 1 << (size - 1).bit_length())


def load(ref: Ref, mask: jax.Array) -> jax.Array:
    """What a reference has where the mask is true, else 0."""
    value: jax.Array = plgpu.load(ref, mask=mask, other=0)
    return value


def store(ref: Ref, value: jax.Array, mask: jax.Array) -> None:
    """Writes in the dtype of the reference where the mask is true."""
    plgpu.store(ref, value.astype(ref.dtype), mask=mask)


def tile(ref: Ref, rows: jax.Array, lanes: jax.Array, mask: jax.Array) -> jax.Array:
    """The tile [rows, lanes] of a reference [T, C] at these places, 0 where the mask is false."""
    return load(ref.at[rows[:, None], lanes[None, :]], mask)
