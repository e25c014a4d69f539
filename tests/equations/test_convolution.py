"""Recurrences whose decay is the same for every token are convolutions: state by state and by Fourier transforms.

A state space y[t] = Re C h[t], h[t] = A h[t-1] + B u[t] has y = K * u with K[l] = Re C A^l B; this side knows no state
and no time step, only K and products of spectra.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from archc.elaborate import Program
from archc.reference import Reference, random_weights
from archc.specs_index import program
from tests.equations.plain import Array, Weights, gelu, layer_norm, sigmoid
from tests.equations.variations import BILINEAR, varied
from tests.parity.models import Case, torch_model

Complex = NDArray[np.complex128]
Layer = Callable[[Weights, Array], Array]
LENGTH = 50
NEAR = 1e-6


def convolved(kernel: Array, u: Array) -> Array:
    """sum over s <= t of kernel[t - s] @ u[s], of kernel [time, out, in] and u [time, in]; zeros keep the end from
    reaching the beginning."""
    n = 2 * len(u)
    spectrum = np.einsum("foi,fi->fo", np.fft.rfft(kernel, n, axis=0), np.fft.rfft(u, n, axis=0))
    found: Array = np.fft.irfft(spectrum, n, axis=0)[: len(u)]
    return found


def impulse(C: Complex, A: Complex, B: Complex) -> Array:
    """Re C A^l B for each l: C [out, state], A [state], B [state, in] to [time, out, in]."""
    return np.array([((C * A**lag) @ B).real for lag in range(LENGTH)])


def diagonal(bilinear: bool) -> Layer:
    """S4D: a state space for each channel, of eigenvalues that stand for themselves and their conjugates.

    Gu et al. 2022 (arXiv:2206.11893), section 3.1; the step of either rule in the variables of Gu et al. 2021
    (arXiv:2111.00396), equation 3: (1 - dt A / 2)^-1 (1 + dt A / 2) and (1 - dt A / 2)^-1 dt B, or exp(dt A) and
    (dt A)^-1 (exp(dt A) - 1) dt B.
    """

    def layer(w: Weights, u: Array) -> Array:
        y = np.zeros_like(u)
        for channel, dt in enumerate(np.exp(w["log_dt"])):
            A = -np.exp(w["log_A"][channel]) + 1j * w["A_imag"][channel]
            if bilinear:
                step, enter = (1 + dt / 2 * A) / (1 - dt / 2 * A), dt / (1 - dt / 2 * A)
            else:
                step, enter = np.exp(dt * A), (np.exp(dt * A) - 1) / (dt * A) * dt
            C = w["C_re"][channel] + 1j * w["C_im"][channel]
            kernel = 2 * impulse(C[None], step, enter[:, None])
            y[:, channel] = convolved(kernel, u[:, channel, None])[:, 0] + w["D"][channel] * u[:, channel]
        return y

    return layer


def dense(w: Weights, u: Array) -> Array:
    """LRU (Orvieto et al. 2023, section 3): one state space between all channels, discrete as it is."""
    A = np.exp(-np.exp(w["nu"]) + 1j * np.exp(w["theta"]))
    B = np.exp(w["gamma"])[:, None] * (w["B_re"] + 1j * w["B_im"]).T
    C = (w["C_re"] + 1j * w["C_im"]).T
    return convolved(impulse(C, A, B), u) + w["D"] * u


def logits(w: Weights, tokens: NDArray[np.int64], name: str, layer: Layer) -> Array:
    """The models around them: norm, state space, gelu, gated linear unit."""
    x = w["E"][tokens]
    for part in w.layers():
        y = gelu(layer(part.below(name), layer_norm(x, part.below("layer_norm"))))
        g = part.below("glu")
        x = x + (y @ g["W_a"] + g["b_a"]) * sigmoid(y @ g["W_b"] + g["b_b"])
    return layer_norm(x, w.below("layer_norm")) @ w["U"]


CASES: dict[str, tuple[Callable[[], Program], str, Layer]] = {
    "S4D, zero-order hold": (lambda: program("s4d:tiny", {"width": 6}), "ssm", diagonal(bilinear=False)),
    "S4D, bilinear": (lambda: varied("s4d", *BILINEAR, width=6), "ssm", diagonal(bilinear=True)),
    "LRU": (lambda: program("lru:tiny", {"width": 6, "state": 5}), "linear_recurrence", dense),
}


@pytest.mark.parametrize("name", CASES)
def test_the_recurrent_and_the_convolution_form_agree(name: str) -> None:
    """Token by token in the reference, and as PyTorch runs sequences and single tokens."""
    build, part, layer = CASES[name]
    found = build()
    weights, tokens = random_weights(found.graph, 5), np.random.default_rng(6).integers(0, 97, LENGTH)
    wanted = logits(Weights(weights), tokens, part, layer)
    assert np.ptp(wanted) > 0.1
    reference = Reference(found.graph, weights)
    state, rows = reference.start(1), []
    for t, token in enumerate(tokens):
        (row,), state = reference.step({"tokens": token[None]}, state, np.array([t]))
        rows.append(row[0])
    np.testing.assert_allclose(rows, wanted, rtol=0, atol=NEAR)
    model: Any = torch_model(Case(found, weights, {"tokens": tokens[None]}, ()), torch.float64)
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.tensor(tokens[None]))[0], wanted, rtol=0, atol=NEAR)
        state, parts = model.init_state(1, LENGTH, torch.float64), []
        for piece in torch.tensor(tokens[None]).split((20, 1, 29), 1):
            part_of, state = model.step(piece, state)
            parts.append(part_of[0])
    np.testing.assert_allclose(torch.cat(parts), wanted, rtol=0, atol=NEAR)
