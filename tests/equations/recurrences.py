"""Recurrent families as their papers write them: unrolled or in parallel form where the spec has a scan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.equations.plain import (
    Array,
    Weights,
    before,
    conv,
    gelu,
    layer_norm,
    mlp,
    rms,
    rms_model,
    rotated,
    sigmoid,
    silu,
    softmax,
    softplus,
    times,
    waves,
)

Tokens = NDArray[np.int64]


def rwkv4(w: Weights, tokens: Tokens) -> Array:
    """Peng et al. 2023, equations 11 to 18: sums of exponentials, without the running maximum."""
    x = layer_norm(w["E"][tokens], w.below("layer_norm"))
    for layer in w.layers():
        x = x + _wkv(layer.below("time_mix"), layer_norm(x, layer.below("layer_norm")))
        x = x + _squared(layer.below("channel_mix"), layer_norm(x, layer.below("layer_norm_2")))
    return layer_norm(x, w.below("layer_norm_2")) @ w["U"]


def _wkv(w: Weights, x: Array) -> Array:
    r, k, v = ((w[f"mu_{n}"] * x + (1 - w[f"mu_{n}"]) * before(x)) @ w[f"W_{n}"] for n in "rkv")
    decay, out = np.exp(w["w"]), np.zeros_like(v)
    for t in range(len(x)):
        weights = [np.exp(-(t - 1 - s) * decay + k[s]) for s in range(t)] + [np.exp(w["u"] + k[t])]
        out[t] = sum(a * v[s] for s, a in enumerate(weights)) / sum(weights)
    return (sigmoid(r) * out) @ w["W_o"]


def _squared(w: Weights, x: Array) -> Array:
    r, k = (w[f"mu_{n}"] * x + (1 - w[f"mu_{n}"]) * before(x) for n in "rk")
    return sigmoid(r @ w["W_r"]) * (np.maximum(k @ w["W_k"], 0) ** 2 @ w["W_v"])


def rwkv6(w: Weights, tokens: Tokens) -> Array:
    """Peng et al. 2024, equations 4 to 19 of Finch."""
    x = layer_norm(w["E"][tokens], w.below("layer_norm"))
    for layer in w.layers():
        x = x + _finch(layer.below("time_mix"), layer_norm(x, layer.below("layer_norm")))
        mixed, fed = layer.below("channel_mix"), layer_norm(x, layer.below("layer_norm_2"))
        k, r = (fed + (before(fed) - fed) * mixed[f"mu_{n}"] for n in "kr")
        x = x + sigmoid(r @ mixed["W_r"]) * (np.maximum(k @ mixed["W_k"], 0) ** 2 @ mixed["W_v"])
    return layer_norm(x, w.below("layer_norm_2")) @ w["U"]


def _finch(w: Weights, x: Array) -> Array:
    d = before(x) - x
    low = np.tanh(times(x + d * w["mu_x"], w["A"]))  # [time, five, rank]
    mixed = [x + d * (low[:, i] @ w["B"][i] + w["mu"][i]) for i in range(5)]  # for w, k, v, r, g
    k, v, r = (times(mixed[i], w[f"W_{n}"]) for i, n in ((1, "k"), (2, "v"), (3, "r")))
    g = silu(times(mixed[4], w["W_g"]))
    decay = np.exp(-np.exp(w["w0"] + times(np.tanh(mixed[0] @ w["D1"]), w["D2"])))
    out = np.zeros_like(v)
    for h in range(k.shape[1]):
        state = np.zeros((k.shape[2], v.shape[2]))
        for t in range(len(x)):
            now = np.outer(k[t, h], v[t, h])
            out[t, h] = r[t, h] @ (state + w["u"][h][:, None] * now)
            state = decay[t, h][:, None] * state + now
    out = layer_norm(out, w.below("layer_norm"), eps=64e-5)
    return times(out * g, w["W_o"], 2)


def retnet(w: Weights, tokens: Tokens) -> Array:
    """Sun et al. 2023, equation 5: the parallel form, (Q K^T . D) V with D[n, m] = gamma^(n - m)."""

    def mixer(layer: Weights, x: Array) -> Array:
        w = layer.below("retention")
        q, k = (rotated(times(x, w[f"W_{n}"])) for n in "qk")
        v, y = times(x, w["W_v"]), np.zeros((len(x), *w["W_v"].shape[1:]))
        for h in range(q.shape[1]):
            for n in range(len(x)):
                for m in range(n + 1):
                    y[n, h] += (1 - 2.0 ** (-5 - h)) ** (n - m) * q[n, h] @ k[m, h] / np.sqrt(q.shape[2]) * v[m, h]
        return times(rms(y, w["rms_norm.scale"]) * silu(times(x, w["W_g"])), w["W_o"], 2)

    return rms_model(w, tokens, mixer, lambda layer, x: gelu(x @ layer["W_in"]) @ layer["W_out"])


def _weighted(q: Array, k: Array, v: Array, decay: Array) -> Array:
    """sum over s <= t of (q[t] . decays between s and t . k[s]) v[s], all [time, heads, key or value]."""
    y = np.zeros((len(q), *v.shape[1:]))
    for t in range(len(q)):
        for s in range(t + 1):
            kept = np.prod(decay[s + 1 : t + 1], axis=0)
            y[t] += (q[t] * kept * k[s]).sum(-1, keepdims=True) * v[s]
    return y


def gla(w: Weights, tokens: Tokens) -> Array:
    """Yang et al. 2023, section 4.2: the unrolled recurrence."""

    def mixer(layer: Weights, x: Array) -> Array:
        w = layer.below("gated_linear_attention")
        a = sigmoid(times(x @ w["W_a1"], w["W_a2"]) + w["b_a"]) ** (1 / 16)
        q, k, v = (times(x, w[f"W_{n}"]) for n in "qkv")
        y = _weighted(q / np.sqrt(q.shape[-1]), k, v, a)
        return times(rms(y, w["rms_norm.scale"]) * silu(times(x, w["W_g"])), w["W_o"], 2)

    return rms_model(w, tokens, mixer)


def _bounds(w: Weights) -> Array:
    """Qin et al. 2023, equation 6: cumulative softmax over the layers, without the first."""
    p = softmax(w["gamma"].T).T
    return np.cumsum(p, 0) - p[0]


def hgrn(w: Weights, tokens: Tokens) -> Array:
    """Qin et al. 2023, with real states."""
    bounds = iter(_bounds(w))

    def mixer(layer: Weights, x: Array) -> Array:
        w, bound = layer.below("gated_recurrence"), next(bounds)
        f = bound + (1 - bound) * sigmoid(x @ w["W_f"])
        h, state = np.zeros_like(x), np.zeros(x.shape[1])
        for t in range(len(x)):
            state = h[t] = f[t] * state + (1 - f[t]) * silu(x[t] @ w["W_i"])
        return (rms(h, w["rms_norm.scale"]) * silu(x @ w["W_g"])) @ w["W_o"]

    return rms_model(w, tokens, mixer)


def hgrn2(w: Weights, tokens: Tokens) -> Array:
    """Qin et al. 2024: gated linear attention with 1 - f as keys."""
    bounds = iter(_bounds(w))

    def mixer(layer: Weights, x: Array) -> Array:
        w = layer.below("mixer")
        f = times(x, w["W_f"])
        bound = next(bounds).reshape(f.shape[1:])
        f = bound + (1 - bound) * sigmoid(f)
        y = _weighted(silu(times(x, w["W_q"])), 1 - f, times(x, w["W_i"]), f)
        scale = w["rms_norm.scale"]
        return times(rms(y.reshape(len(x), -1), scale.ravel()).reshape(y.shape), w["W_o"], 2)

    return rms_model(w, tokens, mixer)


def linear_transformer(w: Weights, tokens: Tokens) -> Array:
    """Katharopoulos et al. 2020, equation 9, as attention."""
    x = w["E"][tokens] + waves(len(tokens), w["E"].shape[1])
    for layer in w.layers():
        part = layer.below("linear_attention")
        q, k = (np.where(z > 0, z + 1, np.exp(z)) for z in (times(x, part[f"W_{n}"]) for n in "qk"))
        y = _kernel_attention(q, k, times(x, part["W_v"]), 1e-6)
        x = layer_norm(x + times(y, part["W_o"], 2), layer.below("layer_norm"))
        x = layer_norm(x + mlp(layer.below("mlp"), x), layer.below("layer_norm_2"))
    return layer_norm(x, w.below("layer_norm")) @ w["U"]


def _kernel_attention(q: Array, k: Array, v: Array, least: float) -> Array:
    p = np.tril(np.einsum("thf,shf->hts", q, k))
    return np.einsum("hts,shd->thd", p / (p.sum(-1, keepdims=True) + least), v)


def performer(w: Weights, tokens: Tokens) -> Array:
    """Choromanski et al. 2020, lemma 1 and equation 4."""
    x = w["E"][tokens] + w["P"][: len(tokens)]
    for layer in w.layers():
        part, seen = layer.below("favor"), layer_norm(x, layer.below("layer_norm"))
        features = []
        for n in "qk":
            z = times(seen, part[f"W_{n}"]) / part["W_q"].shape[-1] ** 0.25
            phi = np.exp(z @ part["omega"] - (z**2).sum(-1, keepdims=True) / 2) / np.sqrt(part["omega"].shape[1])
            features.append(phi + 1e-6)
        x = x + times(_kernel_attention(*features, times(seen, part["W_v"]), 0), part["W_o"], 2)
        x = x + mlp(layer.below("mlp"), layer_norm(x, layer.below("layer_norm_2")))
    return layer_norm(x, w.below("layer_norm")) @ w["E"].T


def gated_deltanet(w: Weights, tokens: Tokens) -> Array:
    """Yang et al. 2024, equation 10: S a (I - b k k^T) + b v k^T, with S [value, key]."""

    def mixer(layer: Weights, x: Array) -> Array:
        w = layer.below("delta_rule")
        q, k, v = (silu(conv(times(x, w[f"W_{n}"]), w[f"w_{n}"])) for n in "qkv")
        q, k = (z / np.sqrt((z**2).sum(-1, keepdims=True) + 1e-6) for z in (q, k))
        a = np.exp(-np.exp(w["A_log"]) * softplus(x @ w["W_a"] + w["b_a"]))
        b, y = sigmoid(x @ w["W_b"]), np.zeros_like(v)
        for h in range(q.shape[1]):
            state = np.zeros((v.shape[2], k.shape[2]))
            for t in range(len(x)):
                forget = np.eye(k.shape[2]) - b[t, h] * np.outer(k[t, h], k[t, h])
                state = a[t, h] * state @ forget + b[t, h] * np.outer(v[t, h], k[t, h])
                y[t, h] = state @ q[t, h] / np.sqrt(k.shape[2])
        return times(rms(y, w["rms_norm.scale"], 1e-5) * silu(times(x, w["W_g"])), w["W_o"], 2)

    return rms_model(w, tokens, mixer)


def _glu(w: Weights, x: Array) -> Array:
    return (x @ w["W_a"] + w["b_a"]) * sigmoid(x @ w["W_b"] + w["b_b"])


def s4d(w: Weights, tokens: Tokens, bilinear: bool = False) -> Array:
    """Gu et al. 2022: the convolution with K[l] = 2 Re sum of C Bb Ab^l, of one number for a pair of conjugates."""
    x = w["E"][tokens]
    for layer in w.layers():
        part, u = layer.below("ssm"), layer_norm(x, layer.below("layer_norm"))
        A = -np.exp(part["log_A"]) + 1j * part["A_imag"]
        dt = np.exp(part["log_dt"])[:, None]
        Ab = (2 + dt * A) / (2 - dt * A) if bilinear else np.exp(dt * A)
        Bb = 2 * dt / (2 - dt * A) if bilinear else (np.exp(dt * A) - 1) / A
        C = part["C_re"] + 1j * part["C_im"]
        kernel = [2 * (C * Bb * Ab**lag).sum(1).real for lag in range(len(x))]
        y = np.array([sum(kernel[t - s] * u[s] for s in range(t + 1)) for t in range(len(x))]) + part["D"] * u
        x = x + _glu(layer.below("glu"), gelu(y))
    return layer_norm(x, w.below("layer_norm")) @ w["U"]


def lru(w: Weights, tokens: Tokens) -> Array:
    """Orvieto et al. 2023, section 3.4, unrolled over time."""
    x = w["E"][tokens]
    for layer in w.layers():
        part, u = layer.below("linear_recurrence"), layer_norm(x, layer.below("layer_norm"))
        eigenvalues = np.exp(-np.exp(part["nu"]) + 1j * np.exp(part["theta"]))
        entering = np.exp(part["gamma"]) * (u @ (part["B_re"] + 1j * part["B_im"]))
        C = part["C_re"] + 1j * part["C_im"]
        h = np.array([sum(eigenvalues ** (t - s) * entering[s] for s in range(t + 1)) for t in range(len(x))])
        x = x + _glu(layer.below("glu"), gelu((h @ C).real + part["D"] * u))
    return layer_norm(x, w.below("layer_norm")) @ w["U"]
