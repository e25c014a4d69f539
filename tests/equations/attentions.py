"""Families that compare queries with keys, as their papers write them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tests.equations.plain import (
    Array,
    Weights,
    attention,
    causal,
    gelu,
    gelu_tanh,
    layer_norm,
    mlp,
    rms,
    rms_model,
    rotated,
    scores,
    silu,
    softmax,
    swiglu,
    times,
    waves,
    window,
)

Tokens = NDArray[np.int64]
Compose = Callable[[Weights, Array, Array], Array]


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


def _values(p: Array, v: Array, w: Weights) -> Array:
    return times(np.einsum("hts,shd->thd", p, v), w["W_o"], 2)


def transformer(w: Weights, tokens: Tokens) -> Array:
    """Vaswani et al. 2017, sections 3.2 to 3.5: the decoder without its second attention."""
    width = w["E"].shape[1]
    x = w["E"][tokens] * np.sqrt(width) + waves(len(tokens), width)
    for layer in w.layers():
        part = layer.below("multi_head")
        q, k, v = (times(x, part[f"W_{n}"]) for n in "qkv")
        x = layer_norm(x + _values(softmax(scores(q, k, causal)), v, part), layer.below("layer_norm"))
        x = layer_norm(x + mlp(layer.below("mlp"), x, _relu), layer.below("layer_norm_2"))
    return x @ w["E"].T


def gpt(w: Weights, tokens: Tokens) -> Array:
    x = w["E"][tokens] + w["P"][: len(tokens)]
    for layer in w.layers():
        part = layer.below("biased_attention")
        q, k, v = (times(x, part[f"W_{n}"]) + part[f"b_{n}"] for n in "qkv")
        y = _values(softmax(scores(q, k, causal)), v, part) + part["b_o"]
        x = layer_norm(x + y, layer.below("layer_norm"))
        x = layer_norm(x + mlp(layer.below("mlp"), x, gelu_tanh), layer.below("layer_norm_2"))
    return x @ w["E"].T


def transformerpp(w: Weights, tokens: Tokens) -> Array:
    return rms_model(w, tokens, lambda layer, x: attention(layer.below("attention"), x))


def mixtral(w: Weights, tokens: Tokens, active: int) -> Array:
    """Jiang et al. 2024, section 2.1: a softmax over the chosen experts' logits."""

    def feed(layer: Weights, x: Array) -> Array:
        w, out = layer.below("moe"), np.zeros_like(x)
        logits = x @ w["W_router"]
        for t, each in enumerate(x):
            chosen = np.argsort(logits[t])[-active:]
            for gate, e in zip(softmax(logits[t, chosen]), chosen, strict=True):
                hidden = silu(each @ w["W_gate"][:, e]) * (each @ w["W_up"][:, e])
                out[t] += gate * hidden @ w["W_down"][e]
        return out

    return rms_model(w, tokens, lambda layer, x: attention(layer.below("attention"), x, base=1_000_000), feed, 1e-5)


def llama3_1(w: Weights, tokens: Tokens, base: float, factor: float, tied: bool = False) -> Array:
    """The three cases of the scaled frequencies one by one."""

    def speed(half: int) -> Array:
        out = []
        for i in range(half):
            frequency = base ** (-i / half)
            length = 2 * np.pi / frequency
            smooth = (8192 / length - 1) / (4 - 1)
            between = (1 - smooth) * frequency / factor + smooth * frequency
            out.append(frequency if length < 8192 / 4 else frequency / factor if length > 8192 else between)
        return np.array(out)

    def mixer(layer: Weights, x: Array) -> Array:
        w = layer.below("stretched_attention")
        q, k, v = (times(x, w[f"W_{n}"]) for n in "qkv")
        q, k = (rotated(z, speed=speed(z.shape[-1] // 2)) for z in (q, k))
        y = np.zeros_like(q)
        for g in range(q.shape[2]):
            y[:, :, g] = np.einsum("hts,shd->thd", softmax(scores(q[:, :, g], k, causal)), v)
        return times(y, w["W_o"], 3)

    if tied:
        w = Weights({**w.all, "U": w["E"].T})
    return rms_model(w, tokens, mixer, eps=1e-5)


def talking_heads(w: Weights, tokens: Tokens) -> Array:
    """Shazeer et al. 2020, section 4: logits and weights are mixed over the heads."""

    def mixer(layer: Weights, x: Array) -> Array:
        w = layer.below("talking_attention")
        q, k = (rotated(times(x, w[f"W_{n}"])) for n in "qk")
        everything = scores(q, k, lambda t, s: True)
        mixed = np.einsum("hts,hg->gts", everything, w["W_logits"])
        mixed[:, np.triu(np.ones((len(x), len(x)), bool), 1)] = -np.inf
        p = np.einsum("hts,hg->gts", softmax(mixed), w["W_weights"])
        return _values(p, times(x, w["W_v"]), w)

    def feed(layer: Weights, x: Array) -> Array:
        w = layer.below("geglu")
        return (gelu_tanh(x @ w["W_gate"]) * (x @ w["W_up"])) @ w["W_down"]

    return rms_model(w, tokens, mixer, feed)


def low_rank(w: Weights, tokens: Tokens) -> Array:
    """Keys and values in full, made of the latent of each token."""

    def mixer(layer: Weights, x: Array) -> Array:
        w = layer.below("latent_attention")
        q = times(rms(x @ w["A_q"], w["rms_norm.scale"]), w["B_q"])
        latent = rms(x @ w["A_kv"], w["rms_norm_2.scale"])
        p = softmax(scores(q, times(latent, w["B_k"]), causal))
        return _values(p, times(latent, w["B_v"]), w)

    x = w["E"][tokens] + w["P"][: len(tokens)]
    for layer in w.layers():
        x = x + mixer(layer, rms(x, layer["rms_norm.scale"]))
        x = x + swiglu(layer.below("swiglu"), rms(x, layer["rms_norm_2.scale"]))
    return rms(x, w["rms_norm.scale"]) @ w["U"]


def longformer_lm(w: Weights, tokens: Tokens, n: int, step: int, far: int) -> Array:
    """Beltagy et al. 2020, section 3.1: n keys each, in the last `far` layers with gaps of `step`."""
    x, layers = w["E"][tokens], list(w.layers())
    for index, layer in enumerate(layers):
        gap = step if index >= len(layers) - far else 1
        see = lambda t, s, gap=gap: t >= s and (t - s) % gap == 0 and (t - s) // gap < n  # noqa: E731
        x = x + attention(layer.below("attention"), layer_norm(x, layer.below("layer_norm")), see)
        x = x + mlp(layer.below("mlp"), layer_norm(x, layer.below("layer_norm_2")))
    return layer_norm(x, w.below("layer_norm")) @ w["U"]


def linformer(w: Weights, tokens: Tokens) -> Array:
    """Wang et al. 2020, equation 7."""
    length = len(tokens)
    x = w["E"][tokens] + w["P"][:length]
    for layer in w.layers():
        part, seen = layer.below("attend"), layer_norm(x, layer.below("layer_norm"))
        q = times(seen, part["W_q"])
        k = np.einsum("tr,thd->rhd", part["A"][:length], times(seen, part["W_k"]))
        v = np.einsum("tr,thd->rhd", part["B"][:length], times(seen, part["W_v"]))
        p = softmax(np.einsum("thd,rhd->htr", q, k) / np.sqrt(q.shape[-1]))
        x = x + times(np.einsum("htr,rhd->thd", p, v), part["W_o"], 2)
        x = x + mlp(layer.below("mlp"), layer_norm(x, layer.below("layer_norm_2")))
    return layer_norm(x, w.below("layer_norm")) @ w["E"].T


def reformer(w: Weights, tokens: Tokens) -> Array:
    """Kitaev et al. 2020, equations 2 to 9: attention over the union of a token's buckets, reversible layers."""
    x = w["E"][tokens] + waves(len(tokens), w["E"].shape[1])
    y = x
    for layer in w.layers():
        x = x + _hashed(layer.below("hashed_attention"), layer_norm(y, layer.below("layer_norm")))
        y = y + mlp(layer.below("mlp"), layer_norm(x, layer.below("layer_norm_2")), _relu)
    return layer_norm(np.concatenate([x, y], -1), w.below("layer_norm")) @ w["U"]


def _hashed(w: Weights, x: Array) -> Array:
    q, v, rays = times(x, w["W_q"]), times(x, w["W_v"]), w["rays"]  # rays [heads, rounds, half, dim]
    out = np.zeros_like(v)
    for h in range(q.shape[1]):
        turned = np.einsum("td,rnd->trn", q[:, h], rays[h])
        bucket = np.concatenate([turned, -turned], -1).argmax(-1)  # [time, rounds]
        k = q[:, h] / np.linalg.norm(q[:, h], axis=-1, keepdims=True)
        for t in range(len(x)):
            met = [s for s in range(t) if (bucket[t] == bucket[s]).any()] or [t]
            out[t, h] = softmax(k[met] @ q[t, h]) @ v[met, h]
    return times(out, w["W_o"], 2)


# --- composed heads ----------------------------------------------------------------------------------


def dcformer(w: Weights, tokens: Tokens, n: int, pattern: str, pre: Compose, post: Compose) -> Array:
    """Xiao et al. 2024; `pattern`: l for a layer that sees n keys, g for one that sees all, repeated."""
    kinds = iter(pattern * len(w.all))

    def mixer(layer: Weights, x: Array) -> Array:
        w = layer.below("dc_attention")
        see = causal if next(kinds) == "g" else window(n)
        q = rotated(rms(times(x, w["W_q"]), w["rms_norm.scale"]))
        k = rotated(rms(times(x, w["W_k"]), w["rms_norm_2.scale"]))
        return _values(_composed(q, k, see, pre, post, w, x), times(x, w["W_v"]), w)

    return rms_model(w, tokens, mixer)


def dcpythia(w: Weights, tokens: Tokens, n: int) -> Array:
    """Parallel residual, biases, a quarter of each head rotated; local and global layers take turns."""
    x = w["E"][tokens]
    for index, layer in enumerate(w.layers()):
        part, seen = layer.below("affine_dc_attention"), layer_norm(x, layer.below("layer_norm"))
        q, k, v = (times(seen, part[f"W_{n}"]) + part[f"b_{n}"] for n in "qkv")
        q = rotated(rms(q, part["rms_norm.scale"]), part=0.25)
        k = rotated(rms(k, part["rms_norm_2.scale"]), part=0.25)
        p = _composed(q, k, causal if index % 2 else window(n), composed("compose"), composed("compose_2"), part, seen)
        fed = mlp(layer.below("mlp"), layer_norm(x, layer.below("layer_norm_2")))
        x = x + _values(p, v, part) + part["b_o"] + fed
    return layer_norm(x, w.below("layer_norm")) @ w["U"]


def _composed(
    q: Array, k: Array, see: Callable[[int, int], bool], pre: Compose, post: Compose, w: Weights, x: Array
) -> Array:
    unseen = np.array([[not see(t, s) for s in range(len(k))] for t in range(len(q))])
    s = pre(w, scores(q, k, lambda t, s: True), x)
    s[:, unseen] = -np.inf
    return post(w, softmax(s), x)


def composed(name: str, query: bool = True, key: bool = True, low: bool = True, gate: bool = True) -> Compose:
    """The terms of equation 11 that are asked for, by the weights of the part `name`; a [heads, query, key]."""
    parts = ["dynamic", "dynamic_2"] if gate else ["two_factors", "two_factors_2"]

    def compose(w: Weights, a: Array, x: Array) -> Array:
        out, of = a.copy(), iter(parts)
        for side in ("q" if query else "") + ("k" if key else ""):
            out += _term(w.below(name).below(next(of)), a, x, side, low, gate)
        return out

    return compose


def _term(w: Weights, a: Array, x: Array, side: str, low: bool, gate: bool) -> Array:
    """What the queries (t) or the keys (s) of the pairs add."""
    out = np.zeros_like(a)
    for i, each in enumerate(x):
        place = (slice(None), i) if side == "q" else (slice(None), slice(None), i)
        if low:
            hidden = gelu(each @ w["W_h"])
            w1, w2 = rms(times(hidden, w["W_1"])), times(hidden, w["W_2"])
            for r in range(len(w1)):
                out[place] += np.outer(w2[r], w1[r] @ a[place])
        if gate:
            out[place] += np.tanh(each @ w["W_g"])[:, None] * a[place]
    return out


def gates(name: str) -> Compose:
    """The gates alone, which have no part of their own."""

    def compose(w: Weights, a: Array, x: Array) -> Array:
        part = w.below(name)
        q, k = (np.tanh(x @ part[f"W_{n}"]).T for n in "qk")
        return a * (1 + q[:, :, None] + k[:, None, :])

    return compose


def static(name: str) -> Compose:
    return lambda w, a, x: a + np.einsum("hts,hg->gts", a, w[f"{name}.W"])


def uncomposed(w: Weights, a: Array, x: Array) -> Array:
    return a
