"""What the fused kernels share: the gates that they are given, the machine they run on, the sizes of their blocks."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

Arrays = tuple[jax.Array, ...]
Machine = Literal["xla", "tpu", "gpu"]


class Gates(NamedTuple):
    """The equations around a scan, element by element, and their derivatives.

    x are inputs of a token, w weights of a channel, `first` says where a document starts; they broadcast against one
    another. A kernel calls these functions on tiles in single precision; they hold no array of their own.

    gates(x, w, first) -> (a, u): the decay and what enters; of a selective scan (dt, v), the step and what enters.
    gates_grad(x, w, first, da, du) -> (dx, dw): tuples like x and w, dw not yet summed over tokens.
    out(y, x, w) -> o and out_grad(y, x, w, do) -> (dy, dx, dw): what follows the read-out of a selective scan, if any.
    """

    gates: Callable[[Arrays, Arrays, jax.Array], tuple[jax.Array, jax.Array]]
    gates_grad: Callable[[Arrays, Arrays, jax.Array, jax.Array, jax.Array], tuple[Arrays, Arrays]]
    out: Callable[[jax.Array, Arrays, Arrays], jax.Array] | None = None
    out_grad: Callable[[jax.Array, Arrays, Arrays, jax.Array], tuple[jax.Array, Arrays, Arrays]] | None = None


def machine(impl: Machine | None, time: int) -> Machine:
    """Whose kernel runs: `impl` where it is given, else that of the default backend; a single token needs none."""
    if impl is not None:
        return impl
    backend = jax.default_backend() if time > 1 else "cpu"
    return "tpu" if backend == "tpu" else "gpu" if backend == "gpu" else "xla"


def accumulator(*arrays: jax.Array) -> jnp.dtype:
    """Single precision, or double if any of the arrays is."""
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def up(size: int, multiple: int) -> int:
    """The least multiple that is not below `size`."""
    return -(-size // multiple) * multiple


def flat(x: jax.Array, kept: int) -> jax.Array:
    """x with all axes after the first `kept` as one."""
    return x.reshape(*x.shape[:kept], math.prod(x.shape[kept:]))


def array(shape: tuple[int, ...], dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
    """What a kernel writes."""
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def traffic(*arrays: jax.Array | jax.ShapeDtypeStruct) -> int:
    """Bytes of all these arrays."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(arrays))
