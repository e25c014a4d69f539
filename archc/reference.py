"""The meaning of a graph: evaluated in NumPy, in double precision, slow and obviously right; and initial weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from archc.ir.graph import Graph, Value, Weight
from archc.ops.frame import Array, Evaluate, Frame, place
from archc.ops.table import OPS
from archc.passes.caches import bounds
from archc.passes.support import check_causal

RULES: dict[str, Evaluate] = {name: op.reference for name, op in OPS.items()}


@dataclass(frozen=True)
class State:
    """What is known of the tokens so far: their positions [B, S], and the parts of the state by full name."""

    past: Array
    parts: Mapping[str, Array]


class Reference:
    """A graph with weights: whole sequences, or token by token with caches as small as the graph allows.

    `weights` are arrays by full checkpoint name, with the axes of `Weight.type`. Raises `ValueError` for a missing,
    unknown or misshapen one. Documents restart where pos is 0; fp32 and narrow types are double precision here.
    """

    def __init__(self, graph: Graph, weights: Mapping[str, Array]) -> None:
        declared = graph.named_weights()
        if set(declared) != set(weights):
            raise ValueError(f"weights differ from the graph's: {sorted(set(declared) ^ set(weights))}")
        for name, weight in declared.items():
            shape = tuple(a.size for a in weight.type.axes)
            if weights[name].shape != shape:
                raise ValueError(f"weight '{name}' is {weights[name].shape}, not {shape}")
        self.graph = graph
        self.weights = {n: w if np.iscomplexobj(w) else w.astype(np.float64) for n, w in weights.items()}
        self.supports = check_causal(graph)
        self.kept = bounds(graph)

    def run(self, inputs: Mapping[str, Array], pos: Array | None = None) -> tuple[Array, ...]:
        """Whole sequences: inputs [B, T] by name -> every output, [B, T, *axes] ([B, *axes] for one per sequence).

        `pos` [B, T]: positions in the documents; without it each sequence is one document from 0.
        """
        tokens = inputs["tokens"]
        if pos is None:
            pos = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        outputs, _ = self.extend(inputs, self.start(tokens.shape[0]), pos)
        return outputs

    def start(self, batch: int) -> State:
        """Nothing seen yet."""
        return State(np.zeros((batch, 0), dtype=np.int64), {})

    def step(
        self, inputs: Mapping[str, Array], state: State, pos: Array | None = None
    ) -> tuple[tuple[Array, ...], State]:
        """One token per sequence: inputs [B] by name -> outputs [B, *axes] and the state after it.

        `pos` [B]: its position; without it the document goes on.
        """
        chunk = None if pos is None else pos[:, None]
        outputs, state = self.extend({k: v[:, None] for k, v in inputs.items()}, state, chunk)
        return tuple(o[:, 0] for o in outputs), state

    def extend(
        self, inputs: Mapping[str, Array], state: State, pos: Array | None = None
    ) -> tuple[tuple[Array, ...], State]:
        """The next T tokens of each sequence: inputs [B, T] by name -> outputs [B, T, *axes], state after them."""
        batch, length = inputs["tokens"].shape
        if pos is None:
            first = state.past[:, -1:] + 1 if state.past.shape[1] else np.zeros((batch, 1), dtype=np.int64)
            pos = first + np.arange(length)
        frame = Frame(
            rules=RULES,
            weights=self.weights,
            inputs=inputs,
            past=np.concatenate([state.past, pos], axis=1),
            length=length,
            state=dict(state.parts),
            kept=self.kept,
            supports=self.supports,
        )
        outputs = frame.run(self.graph.main)
        return outputs, State(frame.past, frame.state)


def initial_weights(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """Initial values by full name: what `init` says, else the default of the weight's role.

    Defaults: matrices normal with variance 1 / (product of the contracted axes) (LeCun et al. 1998), tables standard
    normal, scales one, biases zero.
    """
    rng = np.random.default_rng(seed)
    return {name: _initial(weight, rng) for name, weight in graph.named_weights().items()}


def random_weights(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """Small generic values for every weight, none of them special: for comparing implementations.

    Matrices are normal with variance 1 / (product of the contracted axes), tables with variance 1 / (length of a
    row), so that tied logits stay small; everything else is its initial value plus normal noise of deviation 0.1, so
    that decays and norms stay tame.
    """
    rng = np.random.default_rng(seed)
    out: dict[str, Array] = {}
    for name, weight in graph.named_weights().items():
        shape = tuple(a.size for a in weight.type.axes)
        if weight.role in ("matrix", "table"):
            inputs = _fan_in(weight) if weight.role == "matrix" else math.prod(shape[1:])
            out[name] = rng.normal(0, 1 / math.sqrt(inputs), shape)
        else:
            out[name] = _initial(weight, rng) + rng.normal(0, 0.1, shape)
    return out


def _fan_in(weight: Weight) -> int:
    return math.prod(weight.type.sizes[n] for n in weight.contracted)


def _initial(weight: Weight, rng: np.random.Generator) -> Array:
    shape = tuple(a.size for a in weight.type.axes)
    if weight.init is None:
        match weight.role:
            case "matrix":
                return rng.normal(0, 1 / math.sqrt(_fan_in(weight)), shape)
            case "table":
                return rng.normal(0, 1, shape)
            case "scale":
                return np.ones(shape)
            case "bias":
                return np.zeros(shape)
    (result,) = weight.init.results
    nothing = np.zeros((1, 0), dtype=np.int64)
    frame = Frame(RULES, {}, {}, nothing, 0, {}, draw=lambda value: _draw(value, weight, rng))
    (array,) = frame.run(weight.init)
    return np.array(np.broadcast_to(place(array, result.type, result.kind, weight.type.axes), shape), dtype=np.float64)


def _draw(value: Value, weight: Weight, rng: np.random.Generator) -> Array:
    """Random numbers with the axes of the weight."""
    shape = tuple(a.size for a in value.type.axes)
    params: tuple[float, ...] = value.attrs["params"]
    match value.attrs["how"], params:
        case "constant", (number,):
            return np.full(shape, float(number))
        case "normal", (deviation,):
            return rng.normal(0, deviation, shape)
        case "uniform", (low, high):
            return rng.uniform(low, high, shape)
        case "log_uniform", (low, high):
            return np.exp(rng.uniform(math.log(low), math.log(high), shape))
        case "orthogonal", ():
            return _orthogonal(shape, len(weight.kept), weight.row_axes, rng)
        case how, _:
            raise AssertionError(f"no random numbers {how}{params}")


def _orthogonal(shape: tuple[int, ...], kept: int, rows: int, rng: np.random.Generator) -> Array:
    """Matrices with columns of unit length, orthogonal to one another in blocks of as many as there can be.

    The first `kept` axes count matrices, the next `rows` are the rows of each, the others its columns. Every orthogonal
    block is as likely as any other (Mezzadri 2007, arXiv:math-ph/0609050, section 5).
    """
    count, height = math.prod(shape[:kept]), math.prod(shape[kept : kept + rows])
    columns = math.prod(shape[kept + rows :])
    out = np.empty((count, height, columns))
    for matrix in out:
        for first in range(0, columns, height):
            q, r = np.linalg.qr(rng.normal(size=(height, height)))
            matrix[:, first : first + height] = (q * np.sign(np.diagonal(r)))[:, : columns - first]
    return out.reshape(shape)
