"""Recurrences beside attention (Griffin and its kin), and attention made into Mamba, by heads and channels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.equations.plain import (
    Array,
    Weights,
    attention,
    causal,
    conv,
    gelu_tanh,
    rms,
    rms_model,
    rotated,
    scores,
    sigmoid,
    silu,
    softmax,
    softplus,
    times,
    window,
)

Tokens = NDArray[np.int64]


def griffin(w: Weights, tokens: Tokens, pattern: str, seen: int | None = None) -> Array:
    """De et al. 2024, section 2: norm, temporal mixing, norm, gated MLP; `pattern`: r for a recurrent block, a for
    multi-query attention to the last `seen` tokens (None: all), repeated. Hawk is "r", the MQA Transformer "a".

    Where the paper is silent the released code speaks: half of each head is rotated, biases, tanh in the gelu.
    """
    x = w["E"][tokens]
    for index, layer in enumerate(w.layers()):
        mixed = rms(x, layer["rms_norm.scale"])
        if pattern[index % len(pattern)] == "r":
            x = x + _recurrent(layer.below("rg_lru"), mixed)
        else:
            x = x + _multi_query(layer.below("global_mqa" if seen is None else "local_mqa"), mixed, seen)
        part, fed = layer.below("geglu_affine"), rms(x, layer["rms_norm_2.scale"])
        gate, up = (fed @ part[f"W_{n}"] + part[f"b_{n}"] for n in ("gate", "up"))
        x = x + (gelu_tanh(gate) * up) @ part["W_down"] + part["b_down"]
    return rms(x, w["rms_norm.scale"]) @ w["E"].T


def _recurrent(w: Weights, x: Array) -> Array:
    """Section 2.3, figure 2c: two branches, one of them a convolution and the RG-LRU."""
    gate = gelu_tanh(x @ w["W_y"] + w["b_y"])
    u = conv(x @ w["W_x"] + w["b_x"], w["w_conv"]) + w["b_conv"]
    return (_rg_lru(w, u) * gate) @ w["W_out"] + w["b_out"]


def _rg_lru(w: Weights, x: Array) -> Array:
    """Equations 1 to 4, unrolled: token s is in the state of token t by all gates between them.

    The stored parameter is minus the paper's Lambda. As in the released code a sequence's first token is not scaled.
    """
    blocks, side = w["b_r"].shape
    out = np.zeros_like(x)
    for block in range(blocks):
        channels = slice(block * side, (block + 1) * side)
        r, i = (sigmoid(x[:, channels] @ w[f"W_{n}"][block] + w[f"b_{n}"][block]) for n in "ri")
        a = sigmoid(-w["lambda_"][block]) ** (8 * r)
        entering = np.sqrt(1 - a**2) * i * x[:, channels]
        entering[0] = i[0] * x[0, channels]
        for t in range(len(x)):
            out[t, channels] = sum(np.prod(a[s + 1 : t + 1], axis=0) * entering[s] for s in range(t + 1))
    return out


def _multi_query(w: Weights, x: Array, seen: int | None) -> Array:
    """Section 2.3: every head of queries against one of keys and values (Shazeer 2019)."""
    see = causal if seen is None else window(seen)
    q, k, v = rotated(times(x, w["W_q"]), part=0.5), rotated(x @ w["W_k"], part=0.5), x @ w["W_v"]
    heads = [softmax(scores(q[:, h, None], k[:, None], see))[0] @ v for h in range(q.shape[1])]
    return times(np.stack(heads, 1), w["W_o"], 2) + w["b_o"]


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
