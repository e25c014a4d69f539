"""How near an implementation must come to the reference: to the limit, or as near as rounding lets it be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.parity.models import Case, Weights, several, torch_gradients
from tests.parity.rounding import SINGLE, distance, perturbed

RUNS, MANY_RUNS = 4, 32  # with random rounding; many, where a choice of the largest hangs on it
MARGIN = 10  # how much further off than such runs an implementation may be


def require_near(
    what: str,
    case: Case,
    got: Any,
    pos: NDArray[np.int64] | None = None,
    limit: float = 1e-5,
    errors: tuple[float, float] = (SINGLE, SINGLE),
) -> None:
    """AssertionError unless outputs are within the limit of the reference, or about as near as rounding lets them be.

    errors: the relative error of a result, and that of one in an island of single precision.
    """
    wanted = case.reference(pos)
    off = [distance(found, right) for found, right in zip(several(got), wanted, strict=True)]
    if all(each < limit for each in off):
        return
    for runs in (RUNS, MANY_RUNS):
        spread = case.spread(pos, *errors, runs=runs)
        if all(each < limit + MARGIN * least for each, least in zip(off, spread, strict=True)):
            return
    raise AssertionError(f"{what}: off by {off}, where rounding explains {spread}")


def require_same_gradients(
    case: Case,
    got: Weights,
    wanted: Weights,
    pos: NDArray[np.int64],
    limit: float,
    error: float = SINGLE,
) -> None:
    """AssertionError unless gradients are within the limit, or about as near as an error in the weights lets them be.

    A gradient that is nothing but rounding (of a bias of keys: a softmax does not see it) is held against the others.
    """
    norms = {name: float(np.linalg.norm(x)) for name, x in wanted.items()}
    typical = float(np.median(list(norms.values()))) or max(norms.values()) or 1.0
    scales = {name: norm if norm > 1e-9 * typical else typical for name, norm in norms.items()}

    def off(found: Weights) -> dict[str, float]:
        return {name: float(np.linalg.norm(found[name] - x)) / scales[name] for name, x in wanted.items()}

    far = {name: each for name, each in off(got).items() if not each < limit}
    if not far:
        return
    runs = []
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        weights = {name: perturbed(w, error, rng) for name, w in case.weights.items()}
        runs.append(off(torch_gradients(replace(case, weights=weights), torch.float64, pos)))
    for name, each in far.items():
        spread = max(run[name] for run in runs)
        assert each < limit + MARGIN * spread, f"gradient of {name}: off by {each}, where rounding explains {spread}"
