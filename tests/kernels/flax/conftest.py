"""Loads the kernels as a generated project sees them, and compares them with loops in NumPy."""

import functools
import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from tests.xla import QUICK

FOLDER = Path(__file__).parents[3] / "backends" / "flax" / "kernels"
NAMES = (
    "attention",
    "blocks_tpu",
    "buckets",
    "chunk_sizes",
    "chunked_gpu",
    "chunked_scan",
    "chunked_tpu",
    "chunks_gpu",
    "composed",
    "composed_blocks_gpu",
    "composed_gpu",
    "composed_tiles",
    "composed_tpu",
    "conv",
    "conv_gpu",
    "conv_tpu",
    "delta",
    "gated",
    "gated_complex",
    "gated_complex_gpu",
    "gated_complex_tpu",
    "gated_gpu",
    "gated_key_scan",
    "gated_tpu",
    "long_convolution",
    "loop",
    "normalised_scan",
    "numerics",
    "pairs",
    "prev",
    "scan",
    "selective_gpu",
    "selective_keys_tpu",
    "selective_scan",
    "selective_tpu",
    "selective_walk_gpu",
    "selective_walk_tpu",
)
Tree = Any
quick = functools.partial(jax.jit, compiler_options=QUICK)


@pytest.fixture(scope="session")
def kernels() -> SimpleNamespace:
    """The files as modules `kernels.*`, a name that they have only while they are imported."""
    held = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "kernels"}
    package = ModuleType("kernels")
    package.__path__ = [str(FOLDER)]
    sys.modules["kernels"] = package
    try:
        return SimpleNamespace(**{name: importlib.import_module(f"kernels.{name}") for name in NAMES})
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "kernels"]:
            del sys.modules[name]
        sys.modules.update(held)


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def mixed() -> np.ndarray:
    """Positions of 37 tokens: a document goes on and three follow, one of a single token; padding, then two."""
    time = np.arange(37)
    first = np.select([time < 9, time < 10, time < 31], [time + 5, time - 9, time - 10], time - 31)
    return np.stack([first, np.where(time < 24, time - 3, time - 24)])


@pytest.fixture(params=["whole", "mixed"])
def pos(request: pytest.FixtureRequest, mixed: np.ndarray) -> np.ndarray:
    return mixed if request.param == "mixed" else np.arange(37)


@pytest.fixture
def agree(rng: np.random.Generator) -> Callable[..., None]:
    """Compares values and gradients of `kernel(*arrays)` with those of `oracle(*arrays)`; both return a tree of arrays.

    The oracle's derivatives are central differences along one random direction for each array. `counts` (a tree as the
    result, or None) says which results are defined.
    """

    def check(kernel: Callable[..., Tree], oracle: Callable[..., Tree], arrays: tuple, counts: Tree = None) -> None:
        expected = jax.tree.leaves(oracle(*arrays))
        masks = [True] * len(expected) if counts is None else jax.tree.leaves(counts)
        weights = [np.where(mask, rng.normal(size=x.shape), 0) for x, mask in zip(expected, masks, strict=True)]

        @quick
        def run(*arrays: jax.Array) -> tuple[Tree, Tree]:
            values, pull = jax.vjp(lambda *x: jax.tree.leaves(kernel(*x)), *arrays)
            return values, pull([jax.numpy.asarray(w, v.dtype) for w, v in zip(weights, values, strict=True)])

        values, gradients = run(*arrays)
        for value, want, mask in zip(values, expected, masks, strict=True):
            np.testing.assert_allclose(np.where(mask, value, 0), np.where(mask, want, 0), rtol=1e-9, atol=1e-10)
        for n, gradient in enumerate(gradients):
            direction = rng.normal(size=arrays[n].shape)
            want = slope(oracle, arrays, n, direction, weights)
            np.testing.assert_allclose(np.sum(gradient * direction), want, rtol=2e-6, atol=1e-7, err_msg=f"array {n}")

    return check


def slope(oracle: Callable[..., Tree], arrays: tuple, n: int, direction: np.ndarray, weights: list) -> float:
    def loss(step: float) -> float:
        moved = [x + step * direction if i == n else x for i, x in enumerate(arrays)]
        return sum(
            np.sum(w * np.where(w == 0, 0, y)) for w, y in zip(weights, jax.tree.leaves(oracle(*moved)), strict=True)
        )

    return (loss(1e-5) - loss(-1e-5)) / 2e-5


@pytest.fixture
def compiled() -> Callable[..., Callable[..., Tree]]:
    return quick


@pytest.fixture
def in_chunks() -> Callable[..., Tree]:
    """Runs `op(*tokens, pos, state) -> (y, state)` over pieces of 5, 1, 1, 15 and 15 tokens, handing the state on."""

    def run(op: Callable[..., Tree], tokens: tuple, pos: np.ndarray, state: Tree) -> tuple[Tree, Tree]:
        pos, parts = np.broadcast_to(pos, (2, 37)), []
        for i, j in itertools.pairwise([0, 5, 6, 7, 22, 37]):
            y, state = op(*(x[:, i:j] for x in tokens), jax.numpy.asarray(pos[:, i:j]), state)
            parts.append(y)
        return jax.tree.map(lambda *x: jax.numpy.concatenate(x, 1), *parts), state

    return run


@pytest.fixture
def pieces(in_chunks: Callable[..., Tree]) -> Callable[..., Tree]:
    """`in_chunks`, compiled."""

    def run(op: Callable[..., Tree], tokens: tuple, pos: np.ndarray, state: Tree) -> Tree:
        return quick(lambda tokens, state: in_chunks(op, tokens, pos, state))(tokens, state)

    return run
