"""Recurrent networks of the last century and the gated unit, a token at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.equations.plain import Array, Weights, sigmoid, times

Tokens = NDArray[np.int64]


def rnn(w: Weights, tokens: Tokens) -> Array:
    x = w["E"][tokens]
    for layer in w.layers():
        part, h, out = layer.below("elman"), np.zeros(x.shape[1]), []
        for each in x:
            h = np.tanh(each @ part["W"] + h @ part["U"] + part["b"])
            out.append(h)
        x = np.array(out)
    return x @ w["U"] + w["b_logits"]


def gru(w: Weights, tokens: Tokens) -> Array:
    """Cho et al. 2014, with the reset gate behind the product, as everybody has it."""
    x = w["E"][tokens]
    for layer in w.layers():
        p, h, out = layer.below("gated_unit"), np.zeros(x.shape[1]), []
        for each in x:
            r, z = (sigmoid(each @ p[f"W_{n}"] + p[f"b_{n}"] + h @ p[f"U_{n}"] + p[f"c_{n}"]) for n in "rz")
            n = np.tanh(each @ p["W_n"] + p["b_n"] + r * (h @ p["U_n"] + p["c_n"]))
            h = (1 - z) * n + z * h
            out.append(h)
        x = np.array(out)
    return x @ w["U"] + w["b_logits"]


def lstm(w: Weights, tokens: Tokens) -> Array:
    x = w["E"][tokens]
    for layer in w.layers():
        p, h, c, out = layer.below("lstm_layer"), np.zeros(x.shape[1]), np.zeros(x.shape[1]), []
        for each in x:
            i, f, g, o = times(each, p["W"]) + p["b"] + times(h, p["U"]) + p["d"]
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            out.append(h)
        x = np.array(out)
    return x @ w["U"] + w["b_logits"]
