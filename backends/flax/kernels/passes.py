"""A kernel and the kernel of its gradients as one function that JAX differentiates."""

import functools
from typing import Any, Protocol

import jax

Tree = Any


class Passes(Protocol):
    """The two passes of a kernel for one set of equations and sizes. Equal passes must have equal hashes."""

    def forward(self, places: jax.Array, operands: Tree) -> tuple[Tree, Tree]:
        """What is computed from the operands, and what the backward pass is given besides them."""

    def backward(self, places: jax.Array, operands: Tree, kept: Tree, gradients: Tree) -> Tree:
        """The gradients of the operands, a tree like them, from those of what was computed."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def run(passes: Passes, places: jax.Array, operands: Tree) -> Tree:
    """What the forward pass computes; places: whole numbers, where documents start."""
    return passes.forward(places, operands)[0]


def _save(passes: Passes, places: jax.Array, operands: Tree) -> tuple[Tree, Tree]:
    found, kept = passes.forward(places, operands)
    return found, (places, operands, kept)


def _back(passes: Passes, saved: Tree, gradients: Tree) -> tuple[None, Tree]:
    places, operands, kept = saved
    return None, passes.backward(places, operands, kept, gradients)


run.defvjp(_save, _back)
