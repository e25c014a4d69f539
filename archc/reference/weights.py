"""Weights for a graph: as its `init` lines say, or generic ones for comparing implementations."""

from __future__ import annotations

import math

import numpy as np

from archc.ir.graph import Graph, Value, Weight
from archc.reference.frame import Array, Frame, place
from archc.reference.rules import RULES


def initial_weights(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """Initial values by full name: what `init` says, else the default of the weight's role.

    Defaults: matrices, and tables that are heads as well, normal with variance 1 / (product of the contracted axes)
    (LeCun et al. 1998), other tables standard normal, scales one, biases zero.
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
    """What is summed for an element of the result; 1 for what is only looked up."""
    return math.prod(weight.type.sizes[n] for n in weight.contracted)


def _initial(weight: Weight, rng: np.random.Generator) -> Array:
    shape = tuple(a.size for a in weight.type.axes)
    if weight.init is None:
        match weight.role:
            case "matrix" | "table":
                return rng.normal(0, 1 / math.sqrt(_fan_in(weight)), shape)
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
