"""How far rounding alone moves what a program computes: the reference with a random error in every result.

Monte Carlo arithmetic (Parker 1997, "Monte Carlo arithmetic: exploiting randomness in floating-point arithmetic"): what
such runs differ by is what no implementation in that precision can be held to. It depends on the spec and its weights
alone, not on the code under test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from archc.ir.graph import Value
from archc.reference.frame import Evaluate, Frame
from archc.reference.rules import RULES

LARGEST = 1e18  # what can be squared in single precision
DOUBLE, SINGLE, BFLOAT16 = 2.0**-53, 2.0**-24, 2.0**-9  # half a unit in the last place of 1
EXACT = frozenset(
    """
    weight input pos param index lookup rename fp32 split merge slice concat stack_axis pick queries keys mask
    stack stack_out loop loop_out prev neg abs sign relu minimum maximum where real imag complex top argmax
    """.split()
)  # what only moves or chooses values


def rounding_rules(error: float, wide: float, seed: int) -> Mapping[str, Evaluate]:
    """The rules of the reference with relative errors up to `error` in what is computed; up to `wide` in islands of
    single precision.
    """
    rng = np.random.default_rng(seed)

    def rounding(rule: Evaluate) -> Evaluate:
        def evaluate(value: Value, operands: tuple[Any, ...], frame: Frame) -> Any:
            return perturbed(rule(value, operands, frame), wide if value.type.wide else error, rng)

        return evaluate

    return {name: rule if name in EXACT else rounding(rule) for name, rule in RULES.items()}


def sizing_rules(sizes: list[float]) -> Mapping[str, Evaluate]:
    """The rules of the reference; the largest magnitude of each real result is added to `sizes`."""

    def sizing(rule: Evaluate) -> Evaluate:
        def evaluate(value: Value, operands: tuple[Any, ...], frame: Frame) -> Any:
            result = rule(value, operands, frame)
            if isinstance(result, np.ndarray) and result.dtype.kind in "fc" and result.size:
                sizes.append(float(np.abs(result[np.isfinite(result)]).max(initial=0)))
            return result

        return evaluate

    return {name: sizing(rule) for name, rule in RULES.items()}


def perturbed(array: NDArray[Any], error: float, rng: np.random.Generator) -> NDArray[Any]:
    """The array with a relative error of up to `error` in each element; whole numbers and truth values stay."""
    if array.dtype.kind not in "fc":
        return array
    return array * (1 + error * rng.uniform(-1, 1, array.shape))


def distance(got: Any, wanted: NDArray[np.float64]) -> float:
    """How far off, in relation to the norm of what is wanted."""
    got = got.detach().double().numpy() if isinstance(got, torch.Tensor) else np.asarray(got, np.float64)
    assert got.shape == wanted.shape, f"{got.shape} is not {wanted.shape}"
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))
