"""Weights that training leaves as they are."""

from flax import nnx


class Frozen(nnx.Variable):  # type: ignore[type-arg]
    """A weight that is kept in checkpoints but not trained: `nnx.Param` does not select it."""
