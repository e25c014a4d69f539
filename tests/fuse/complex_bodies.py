"""Drawn equations around a scan of a complex state, as the body of a fn of x[width]."""

from __future__ import annotations

import re
from random import Random

DECAYS = (
    "exp(complex(-exp(nu[width]), exp(theta[width])))", "exp(complex(-softplus(x), theta[width] + k))",
    "sigmoid(x) * exp(complex(0, k))", "z / (abs(z) + 1)", "0.5 + z / (2 * (1 + abs(z)))", "0.9",
    "where(pos == 0, 1, complex(0.5, k / 9)) * sigmoid(k)",
)  # fmt: skip
INPUTS = (
    "z", "exp(g[width]) * z", "x * z ^ 2", "complex(x, tanh(k))", "z * complex(cos(k), sin(k)) - z / 2", "(1 - z) * x",
)  # fmt: skip
REAL_ENDS = (
    "real(h) * k + imag(h)", "abs(h) * silu(x)", "real(h * (w - z)) + x", "real(prev(h) * w)", "real(h / (2 + z * h))",
)  # fmt: skip
ENDS = (
    *(f"({end}) @ W_o[width -> width']" for end in REAL_ENDS),
    "real(h) @ A[width -> width'] + imag(h) @ B[width -> width']",
    "(real(h * w) @ A[width -> width'] + imag(h)) * x",
)  # fmt: skip
SOURCES = {
    "w": "complex(p[width], q[width])", "z": "complex(x @ W_a[width -> width'], k)", "k": "x @ W_k[width -> width']",
}  # fmt: skip


def complex_body(seed: int, ends: tuple[str, ...] = ENDS) -> str:
    """The body for a seed."""
    choose = Random(seed).choice
    decay = choose(DECAYS)
    entering = choose(INPUTS if "complex" in decay or "z" in decay else INPUTS[:1])
    lines = [f"h = scan(decay = {decay}, input = {entering})", f"return {choose(ends)}"]
    for name, text in SOURCES.items():
        if re.search(rf"\b{name}\b", " ".join(lines)):
            lines.insert(0, f"{name} = {text}")
    return "\n".join(lines)
