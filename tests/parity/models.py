"""A spec, its meaning in double precision, and the models that are emitted for it, all with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from numpy.typing import NDArray

from archc import api
from archc.diagnostics import ArchError
from archc.elaborate import Program
from archc.reference import Reference, random_weights
from archc.specs_index import program
from tests.parity.in_process import model_module
from tests.parity.rounding import LARGEST, SINGLE, distance, perturbed, rounding_rules, sizing_rules
from tests.xla import QUICK

Weights = dict[str, NDArray[np.float64]]
POS = np.stack([np.r_[0:9, 0:11], np.r_[0:1, 0:4, 0:15]])  # [B, T]: two and three documents
CHUNKS = (9, 1, 1, 9)


@dataclass(frozen=True)
class Case:
    """A program with weights that are nothing special, inputs [B, T] by name, and how far each output [B, T] counts."""

    program: Program
    weights: Weights
    inputs: Mapping[str, NDArray[np.int64]]
    scales: tuple[NDArray[np.float64], ...]

    @property
    def decodes(self) -> bool:
        """Whether it can be run step by step; an encoder cannot."""
        return self.program.graph.kind == "model"

    @cached_property
    def _exact(self) -> Reference:
        return Reference(self.program.graph, self.weights)

    def reference(self, pos: NDArray[np.int64] | None = None) -> tuple[NDArray[np.float64], ...]:
        """The outputs as they are meant."""
        return self._exact.run(self.inputs, pos)

    @cached_property
    def is_moderate(self) -> bool:
        """Whether single precision has the range for what is computed, and for its squares."""
        sizes: list[float] = []
        Reference(self.program.graph, self.weights, sizing_rules(sizes)).run(self.inputs)
        return max(sizes) < LARGEST

    def spread(
        self, pos: NDArray[np.int64] | None = None, error: float = SINGLE, wide: float = SINGLE, *, runs: int
    ) -> tuple[float, ...]:
        """The distance of each output that rounding alone makes: relative errors up to `error` in every result and
        every weight, in islands of single precision up to `wide`.
        """
        exact, found = self.reference(pos), []
        for seed in range(runs):
            rng = np.random.default_rng(seed)
            weights = {name: perturbed(w, error, rng) for name, w in self.weights.items()}
            rules = rounding_rules(error, wide, seed)
            outputs = Reference(self.program.graph, weights, rules).run(self.inputs, pos)
            found.append([distance(o, e) for o, e in zip(outputs, exact, strict=True)])
        return tuple(map(max, zip(*found, strict=True)))

    def loss(self, weights: Weights, pos: NDArray[np.int64]) -> float:
        """The weighted sum of all outputs, in double precision."""
        outputs = Reference(self.program.graph, weights).run(self.inputs, pos)
        return float(sum((o * s).sum() for o, s in zip(outputs, self.scales, strict=True)))


@cache
def tiny(name: str) -> Program:
    """A shipped spec at size tiny; those without one are small as they stand."""
    try:
        return program(f"{name}:tiny")
    except ArchError:
        return program(name)


@cache
def case(name: str) -> Case:
    """A shipped spec with two sequences of 20 tokens."""
    return make_case(tiny(name), POS.shape)


@cache
def short_case(name: str) -> Case:
    """One period of layers and one sequence of 8 tokens: little work for finite differences."""
    found = tiny(name)
    (stack,) = found.root.stacks.values()
    size = f":{found.size}" if found.size else ""
    return make_case(program(name + size, {"depth": stack.period}), (1, 8))


def make_case(found: Program, shape: tuple[int, int]) -> Case:
    """Weights and inputs for a program."""
    rng = np.random.default_rng(1)
    graph = found.graph
    inputs = {name: rng.integers(0, 97 if name == "tokens" else 2, shape) for name in graph.inputs}
    weights = random_weights(graph)
    outputs = Reference(graph, weights).run(inputs)
    return Case(found, weights, inputs, tuple(rng.normal(size=o.shape) / np.sqrt(o.size) for o in outputs))


@cache
def emitted(found: Program, backend: api.Backend) -> ModuleType:
    """The model.py of a program."""
    return model_module(found, backend)


def several(outputs: Any) -> tuple[Any, ...]:
    """Outputs as a tuple, however many there are."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


# ---- PyTorch ------------------------------------------------------------------------------------------------------


def torch_model(case: Case, dtype: torch.dtype) -> torch.nn.Module:
    """The emitted PyTorch model with the weights of the case."""
    with torch.random.fork_rng(devices=[]):
        model = emitted(case.program, "torch").Model().to(dtype)
    stored = model.state_dict()
    model.load_state_dict({name: torch.tensor(case.weights[name]).reshape(x.shape) for name, x in stored.items()})
    found: torch.nn.Module = model
    return found


def torch_inputs(case: Case) -> list[torch.Tensor]:
    """The inputs in the order in which the model takes them."""
    return [torch.tensor(x) for x in case.inputs.values()]


def torch_gradients(case: Case, dtype: torch.dtype, pos: NDArray[np.int64]) -> Weights:
    """The gradient of the loss of a case by each trained weight, in the axes of the spec."""
    model = torch_model(case, dtype)
    outputs = several(model(*torch_inputs(case), torch.tensor(pos)))
    sum((o * torch.tensor(s, dtype=dtype)).sum() for o, s in zip(outputs, case.scales, strict=True)).backward()
    found = {}
    for name, weight in model.named_parameters():
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        found[name] = gradient.double().numpy().reshape(case.weights[name].shape)
    return found


# ---- Flax ---------------------------------------------------------------------------------------------------------


def blank_flax_model(module: ModuleType, remat: bool = False, unroll: bool = False) -> nnx.Module:
    """The emitted Flax model without arrays."""
    model: nnx.Module = nnx.eval_shape(lambda: module.Model(rngs=nnx.Rngs(0), remat=remat, unroll=unroll))
    return model


def flax_shapes(model: nnx.Module, kind: type[nnx.Variable[Any]] = nnx.Variable) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights of a Flax model by path."""
    flat = nnx.to_flat_state(nnx.state(model, kind))
    return {".".join(map(str, path)): leaf.get_value().shape for path, leaf in flat}


def names_of(model: nnx.Module, path: str) -> list[str]:
    """The names of the weights that lie at a path: of a stack one a layer."""
    for prefix, layers in model.STACKS.items():  # type: ignore[attr-defined]
        if path.startswith(f"{prefix}."):
            return [layer + path.removeprefix(prefix) for layer in layers]
    for prefix, name in model.RENAMED.items():  # type: ignore[attr-defined]
        if path.startswith(f"{prefix}."):
            return [name + path.removeprefix(prefix)]
    return [path]


def is_stacked(model: nnx.Module, path: str) -> bool:
    """Whether the leading axis counts layers."""
    return any(path.startswith(f"{prefix}.") for prefix in model.STACKS)  # type: ignore[attr-defined]


def flax_model(case: Case, dtype: Any = jnp.float32, remat: bool = False, unroll: bool = False) -> nnx.Module:
    """The emitted Flax model with the weights of the case."""
    model = blank_flax_model(emitted(case.program, "flax"), remat, unroll)
    flat = []
    for path, shape in flax_shapes(model).items():
        parts = [case.weights[name] for name in names_of(model, path)]
        whole = np.stack(parts) if is_stacked(model, path) else parts[0]
        keys = tuple(int(key) if key.isdigit() else key for key in path.split("."))
        flat.append((keys, jnp.asarray(whole.reshape(shape), dtype)))
    nnx.update(model, nnx.from_flat_state(flat))
    return model


def flax_inputs(case: Case) -> list[jax.Array]:
    """The inputs in the order in which the model takes them."""
    return [jnp.asarray(x) for x in case.inputs.values()]


Run = Callable[..., Any]
"""Evaluates a function of arrays: `run(function, *arrays)`."""


def run_compiled(function: Callable[..., Any], *arrays: Any) -> Any:
    """Compiled with little optimisation: every test compiles anew."""
    return jax.jit(function, compiler_options=QUICK)(*arrays)


def flax_step(model: nnx.Module, run: Run = run_compiled) -> Callable[..., Any]:
    """`model.step`, as often as its inputs have the same shapes."""
    graph, weights = nnx.split(model)

    def step(weights: nnx.State, *arrays: Any) -> Any:
        return nnx.merge(graph, weights).step(*arrays)  # type: ignore[attr-defined]

    return partial(run, step, weights)


def flax_outputs_and_gradients(
    case: Case,
    pos: NDArray[np.int64],
    dtype: Any = jnp.float32,
    run: Run = run_compiled,
    model: nnx.Module | None = None,
) -> tuple[tuple[jax.Array, ...], Weights]:
    """The outputs, and the gradient of the loss of a case by each trained weight, in the axes of the spec.

    `model` is one with the weights of the case, if not the plain one.
    """
    model = model or flax_model(case, dtype)
    graph, trained, frozen = nnx.split(model, nnx.Param, ...)

    def loss(trained: nnx.State, frozen: nnx.State, *inputs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        outputs = several(nnx.merge(graph, trained, frozen)(*inputs))
        return sum((o * s.astype(o.dtype)).sum() for o, s in zip(outputs, case.scales, strict=True)), outputs

    derive = jax.grad(loss, has_aux=True)
    gradients, outputs = run(derive, trained, frozen, *flax_inputs(case), jnp.asarray(pos))
    found = {}
    for keys, leaf in nnx.to_flat_state(gradients):
        path, value = ".".join(map(str, keys)), np.asarray(leaf.get_value(), np.float64)
        parts = value if is_stacked(model, path) else [value]
        for name, part in zip(names_of(model, path), parts, strict=True):
            found[name] = part.reshape(case.weights[name].shape)
    return outputs, found
