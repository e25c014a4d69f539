"""Attention made into Mamba, head by head and channel by channel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.equations.plain import (
    Array,
    Weights,
    attention,
    conv,
    rms,
    rms_model,
    silu,
    softplus,
    times,
    window,
)

Tokens = NDArray[np.int64]


def mamba_in_llama(w: Weights, tokens: Tokens, base: float, seen: int | None = None) -> Array:
    """Wang et al. 2024, Mamba-2 form: query head (j, g) reads what key head j wrote."""

    def mixer(layer: Weights, x: Array) -> Array:
        if "attention.W_q" in layer:
            return attention(layer.below("attention"), x, window(seen or len(x)), base)
        w = layer.below("linear_attention")
        C, B, u = (silu(conv(times(x, w[f"W_{n}"]), w[f"w_{n}"]) + w[f"b_{n}"]) for n in "qkv")
        dt = softplus(times(x, w["W_dt"]) + w["b_dt"])
        y = np.zeros((*C.shape[:3], u.shape[-1]))
        for j, g in np.ndindex(C.shape[1:3]):
            state = np.zeros((u.shape[-1], B.shape[-1]))
            for t in range(len(x)):
                decay = np.exp(-dt[t, j, g] * np.exp(w["A_log"][j, g]))
                state = decay * state + dt[t, j, g] * np.outer(u[t, j], B[t, j])
                y[t, j, g] = state @ C[t, j, g] + w["D"][j, g] * u[t, j]
        y = rms(y * silu(times(x, w["W_z"])), 1, 1e-5) * w["rms_norm.scale"]
        return times(y, w["W_o"], 3)

    return rms_model(w, tokens, mixer, eps=1e-5)


def mamba1_in_llama(w: Weights, tokens: Tokens, base: float, seen: int | None = None) -> Array:
    """Wang et al. 2024, Mamba-1 form: part p of query head (j, g) reads with part p of key head j."""

    def mixer(layer: Weights, x: Array) -> Array:
        if "attention.W_q" in layer:
            return attention(layer.below("attention"), x, window(seen or len(x)), base)
        w = layer.below("selective_attention")
        C, B, v = (times(x, w[f"W_{n}"]) for n in "qkv")
        groups = C.shape[2]
        u = np.stack([v] * groups, 2)  # [time, kv, group, part, side]
        u = silu(conv(u, w["w_conv"]) + w["b_conv"])
        dt = softplus(times(x @ w["W_r"], w["W_dt"]) + w["b_dt"])
        y = np.zeros_like(u)
        for j, g, p, i in np.ndindex(u.shape[1:]):
            state = np.zeros(B.shape[-1])
            for t in range(len(x)):
                step = dt[t, j, g, p, i]
                state = np.exp(-step * np.exp(w["A_log"][j, g, p, i])) * state + step * B[t, j, p] * u[t, j, g, p, i]
                y[t, j, g, p, i] = state @ C[t, j, g, p] + w["D"][j, g, p, i] * u[t, j, g, p, i]
        return times(y * silu(times(x, w["W_z"])), w["W_o"], 4)

    return rms_model(w, tokens, mixer, eps=1e-5)
