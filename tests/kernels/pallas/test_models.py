"""Generated models train and decode through the interpreted kernels as they do as array code, from the same weights."""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import pallas as pl

from archc import api
from archc.loading import import_project
from tests.kernels.pallas.conftest import quick

VOCAB, TIME, STEPS, PROMPT, RATE = 32, 14, 2, 6, 0.2
SINGLE = 1e-5  # relative: what single precision and another order of sums explain
POS = np.stack([np.r_[0:5, 0 : TIME - 5], np.r_[0:1, 0:4, 0 : TIME - 5]])
Machine = Literal["tpu", "gpu"]


@dataclass(frozen=True)
class Case:
    """A spec, its size here, and the files of the kernels that it is made for."""

    settings: dict[str, int]
    files: frozenset[str]


GRIFFIN = {"width": 16, "depth": 3, "rnn": 16, "heads": 2, "gates": 2, "window": 8}
DCFORMER = {"width": 16, "depth": 2, "heads": 2, "hidden": 16, "window": 4}
MAMBA2 = {"width": 16, "depth": 2, "head": 16, "state": 8}
CASES: dict[tuple[str, Machine], Case] = {
    ("griffin", "tpu"): Case(GRIFFIN, frozenset({"gated_tpu", "conv_tpu"})),
    ("griffin", "gpu"): Case(GRIFFIN, frozenset({"gated_gpu", "conv_gpu"})),
    ("mamba", "tpu"): Case({"width": 16, "depth": 2, "state": 2}, frozenset({"selective_walk_tpu", "conv_tpu"})),
    ("dcformer", "tpu"): Case(DCFORMER, frozenset({"composed_tpu", "composed_back_tpu"})),
    ("mamba2", "tpu"): Case(
        {"width": 16, "depth": 2, "head": 16, "state": 8}, frozenset({"chunks_walk_tpu", "conv_tpu"})
    ),
    ("rwkv6", "gpu"): Case(
        {"width": 16, "depth": 1, "heads": 2, "mix_rank": 2, "decay_rank": 2}, frozenset({"chunks_walk_gpu"})
    ),
}


@pytest.fixture(autouse=True)
def _single_precision(double_precision: None) -> Iterator[None]:
    with jax.enable_x64(False):
        yield


@contextmanager
def kernels_of(machine: Machine, model: ModuleType) -> Iterator[set[str]]:
    """Inside, the project of a model takes this for such a machine; its kernels are interpreted, their files noted."""
    files: set[str] = set()
    call, stand_in = pl.pallas_call, ModuleType("jax")
    vars(stand_in).update(vars(jax), default_backend=lambda: machine)

    def interpreted(kernel: Any, *arguments: Any, **options: Any) -> Any:
        files.add(getattr(kernel, "func", kernel).__module__.rpartition(".")[2])
        return call(kernel, *arguments, **options | {"interpret": True})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[f"{model.__name__.removesuffix('_model')}_kernels.tiles"], "jax", stand_in)
        patch.setattr(pl, "pallas_call", interpreted)
        yield files


def draw() -> jax.Array:
    return jnp.asarray(np.random.default_rng(4).integers(VOCAB, size=POS.shape))


def trainer(graph: Any) -> Callable[[Any], Any]:
    """A step of gradient descent on packed documents, each token predicting the next one of its document."""
    tokens, pos = draw(), jnp.asarray(POS)
    counts = jnp.roll(pos, -1, 1) != 0

    def loss(weights: Any) -> Any:
        logits = nnx.merge(graph, weights)(tokens, pos)
        likely = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.roll(tokens, -1, 1)[..., None], -1)[..., 0]
        return -jnp.where(counts, likely, 0).sum() / counts.sum()

    def step(weights: Any) -> Any:
        found, gradients = jax.value_and_grad(loss)(weights)
        return found, jax.tree.map(lambda w, g: w - RATE * g, weights, gradients)

    return step


def trained(step: Callable[[Any], Any], weights: Any) -> tuple[list[float], Any]:
    """The losses of a few steps, and the weights after them."""
    step, losses = quick(step), []
    for _ in range(STEPS):
        loss, weights = step(weights)
        losses.append(float(loss))
    return losses, weights


def decoded(graph: Any, weights: Any) -> np.ndarray:
    """Logits of a prompt at once and of single tokens after it."""
    step = quick(lambda weights, tokens, state: nnx.merge(graph, weights).step(tokens, state))
    tokens = draw()
    state, parts = nnx.merge(graph, weights).init_state(*tokens.shape), []
    for piece in jnp.split(tokens, list(range(PROMPT, TIME)), 1):
        logits, state = step(weights, piece, state)
        parts.append(logits)
    return np.concatenate(parts, 1)


@dataclass(frozen=True)
class Plain:
    """A generated project, and what it computes as array code: the initial weights, the losses of a few steps, the
    weights after them, and with those the logits of whole documents.
    """

    model: ModuleType
    graph: Any
    start: Any
    losses: list[float]
    weights: Any
    logits: jax.Array


@functools.cache
def plain(name: str) -> Plain:
    """Made once for all machines."""
    settings = next(case.settings for (each, _), case in CASES.items() if each == name)
    model = import_project(api.compile(name, backend="flax", settings={**settings, "vocab": VOCAB}), "model")["model"]

    def make() -> nnx.Module:
        made: nnx.Module = model.Model(rngs=nnx.Rngs(3))
        return made

    graph, start = nnx.graphdef(nnx.eval_shape(make)), quick(lambda: nnx.state(make()))()
    losses, weights = trained(trainer(graph), start)
    return Plain(model, graph, start, losses, weights, quick(lambda w: nnx.merge(graph, w)(draw()))(weights))


@pytest.mark.parametrize(("name", "machine"), CASES)
def test_a_model_trains_and_decodes_as_on_a_cpu(name: str, machine: Machine) -> None:
    right = plain(name)
    assert right.losses[-1] < right.losses[0] - 0.05
    with kernels_of(machine, right.model) as files:
        losses, weights = trained(trainer(right.graph), right.start)
        assert files == CASES[name, machine].files
        logits = decoded(right.graph, right.weights)
    np.testing.assert_allclose(losses, right.losses, rtol=SINGLE)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=SINGLE, atol=SINGLE), weights, right.weights)
    np.testing.assert_allclose(logits, right.logits, rtol=SINGLE, atol=SINGLE)
