"""Loads the kernels as a generated project sees them, in single precision unless a test asks for double."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from tests.kernels.flax.conftest import double_precision, kernels, quick, rng  # noqa: F401  (fixtures)

Tree = Any


def positions(batch: int, time: int) -> np.ndarray:
    """A document that goes on, then one of three tokens, one of a single token, and a long one; each row is shifted."""
    place = np.arange(time)[None] + np.arange(batch)[:, None]
    edges = np.select([place < 9, place < 12, place < 13], [0, 9, 12], 13)
    return place - edges + np.where(edges == 0, 4, 0)


@pytest.fixture
def pulled() -> Callable[..., tuple[Tree, Tree]]:
    """Values of `op(*arrays)`, and the gradients of all arrays for the cosines of the values."""

    def run(op: Callable[..., Tree], *arrays: Tree) -> tuple[Tree, Tree]:
        @quick
        def both(*arrays: Tree) -> tuple[Tree, Tree]:
            values, pull = jax.vjp(op, *arrays)
            return values, pull(jax.tree.map(jax.numpy.cos, values))

        return both(*arrays)

    return run


SMALL = {"TIME": 8, "ROWS": 2, "CHANNELS": 128, "STEPS": 2, "BLOCK": 4, "MOST": 3}


@pytest.fixture
def small_blocks(kernels: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Several blocks of time and of channels for little work."""
    for name, module in vars(kernels).items():
        for constant in SMALL.keys() & vars(module).keys() if name.endswith("pu") else ():
            monkeypatch.setattr(module, constant, SMALL[constant])


@pytest.fixture
def small_chunks(kernels: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Chunks of 16 tokens on every machine, and on a GPU slices of four values."""
    monkeypatch.setattr(kernels.chunked_tpu, "CHUNK", 16)
    for constant, size in (("ON_GPU", 16), ("SLICE", 4)):
        monkeypatch.setattr(kernels.chunk_sizes, constant, size)
    monkeypatch.setattr(kernels.chunks_gpu, "LEAST", 4)


def close(found: Tree, wanted: Tree, rtol: float, atol: float) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), found, wanted)
