"""What the papers' equations share, for one sequence of tokens, in NumPy and double precision.

Arrays are [time, ...]; nothing here is fast, and nothing is taken from the compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mixer = Callable[["Weights", Array], Array]


@dataclass(frozen=True)
class Weights:
    """The weights below a prefix, each in the axes that the spec declares it with."""

    all: Mapping[str, Array]
    prefix: str = ""

    def __getitem__(self, name: str) -> Array:
        return self.all[f"{self.prefix}{name}"]

    def __contains__(self, name: str) -> bool:
        return f"{self.prefix}{name}" in self.all

    def below(self, name: str) -> Weights:
        """Those of a part."""
        return Weights(self.all, f"{self.prefix}{name}.")

    def layers(self) -> Iterator[Weights]:
        """Those of each layer."""
        for index in range(1 + max(int(name.split(".")[1]) for name in self.all if name.startswith("layers."))):
            yield self.below(f"layers.{index}")


def times(x: Array, w: Array, contracted: int = 1) -> Array:
    """The last axes of x with the first ones of w."""
    return np.tensordot(x, w, contracted)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def softplus(x: Array) -> Array:
    return np.log(1 + np.exp(x))


def gelu(x: Array) -> Array:
    """x times the normal distribution function, by quadrature of its density."""
    nodes, sizes = np.polynomial.legendre.leggauss(40)
    points = x[..., None] * (nodes + 1) / 2
    area = (np.exp(-(points**2) / 2) * sizes).sum(-1) * x / 2 / np.sqrt(2 * np.pi)
    return x * (0.5 + area)


def gelu_tanh(x: Array) -> Array:
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def rms(x: Array, scale: Array | float = 1.0, eps: float = 1e-6) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def layer_norm(x: Array, w: Weights, eps: float = 1e-5) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * w["scale"] + w["shift"]


def softmax(x: Array) -> Array:
    """Over the last axis; where that is minus infinity, zero."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def before(x: Array) -> Array:
    """The value of the last token, zero at the first."""
    return np.concatenate([np.zeros_like(x[:1]), x[:-1]])


def conv(x: Array, taps: Array) -> Array:
    """A causal convolution of each channel; the last tap weighs the present."""
    out = np.zeros_like(x)
    for t in range(len(x)):
        for j in range(min(len(taps), t + 1)):
            out[t] += taps[-1 - j] * x[t - j]
    return out


def rotated(x: Array, base: float = 10_000, part: float = 1, speed: Array | None = None) -> Array:
    """x [time, ..., dim]: the halves of the rotated part are the parts of complex numbers, turned by e^(i t speed)."""
    half = int(part * x.shape[-1]) // 2
    speed = base ** (-np.arange(half) / half) if speed is None else speed
    turns = np.exp(1j * np.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1)) * speed)
    z = (x[..., :half] + 1j * x[..., half : 2 * half]) * turns
    return np.concatenate([z.real, z.imag, x[..., 2 * half :]], -1)


def scores(q: Array, k: Array, see: Callable[[int, int], bool]) -> Array:
    """q, k [time, heads, dim] to q.k / sqrt(dim) [heads, query, key], minus infinity where `see(t, s)` is false."""
    out = np.einsum("thd,shd->hts", q, k) / np.sqrt(q.shape[-1])
    unseen = np.array([[not see(t, s) for s in range(len(k))] for t in range(len(q))])
    out[:, unseen] = -np.inf
    return out


def causal(t: int, s: int) -> bool:
    return s <= t


def window(n: int) -> Callable[[int, int], bool]:
    return lambda t, s: 0 <= t - s < n


def attention(w: Weights, x: Array, see: Callable[[int, int], bool] = causal, base: float = 10_000) -> Array:
    """Llama's: W_q [width, kv, group, dim]; a key head serves a group of query heads."""
    q = rotated(times(x, w["W_q"]), base)
    k, v = rotated(times(x, w["W_k"]), base), times(x, w["W_v"])
    y = np.zeros_like(q)
    for group in range(q.shape[2]):
        p = softmax(scores(q[:, :, group], k, see))
        y[:, :, group] = np.einsum("hts,shd->thd", p, v)
    return times(y, w["W_o"], 3)


def swiglu(w: Weights, x: Array) -> Array:
    return (silu(x @ w["W_gate"]) * (x @ w["W_up"])) @ w["W_down"]


def mlp(w: Weights, x: Array, act: Callable[[Array], Array] = gelu) -> Array:
    return act(x @ w["W_in"] + w["b_in"]) @ w["W_out"] + w["b_out"]


def waves(length: int, width: int) -> Array:
    """Sines and cosines of Vaswani et al. 2017, section 3.5."""
    out = np.zeros((length, width))
    for t in range(length):
        for i in range(width // 2):
            out[t, 2 * i], out[t, 2 * i + 1] = (
                np.sin(t / 10_000 ** (2 * i / width)),
                np.cos(t / 10_000 ** (2 * i / width)),
            )
    return out


def rms_model(
    w: Weights, tokens: NDArray[np.int64], mixer: Mixer, feed: Mixer | None = None, eps: float = 1e-6
) -> Array:
    """Norms before a mixer and a gated MLP, an untied head."""
    x = w["E"][tokens]
    for layer in w.layers():
        x = x + mixer(layer, rms(x, layer["rms_norm.scale"], eps))
        fed = rms(x, layer["rms_norm_2.scale"], eps)
        x = x + (feed(layer, fed) if feed else swiglu(layer.below("swiglu"), fed))
    return rms(x, w["rms_norm.scale"], eps) @ w["U"]
