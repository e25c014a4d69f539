"""Gates of four recurrences, written by hand with their derivatives, and what they mean token by token in NumPy."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Equations(NamedTuple):
    """inputs of a token, weights of a channel, the functions of `Gates`; in NumPy decay, input and result."""

    inputs: int
    weights: int
    gates: Callable
    gates_grad: Callable
    plain: Callable
    out: Callable | None = None
    out_grad: Callable | None = None
    plain_out: Callable = lambda h, *others: h
    before: bool = False

    @property
    def functions(self):
        """As `Gates` takes them."""
        return self.gates, self.gates_grad, self.out, self.out_grad

    def of(self, kind):
        """The gates of the kernels, `kind` being their class."""
        return kind(*self.functions, before=self.before)


def less_than_one(x):
    """1 - exp(x) for x <= 0: Mosaic has no expm1."""
    series = 1.0
    for n in range(14, 1, -1):
        series = 1 + x * (1 / n) * series
    return jnp.where(x > -0.3, -x * series, 1 - jnp.exp(x))


def rg_lru(x, w, first):
    r, i, v = x
    log_a = w[0] * jax.nn.sigmoid(r)
    scale = jnp.where(first, 1, jnp.sqrt(less_than_one(2 * log_a)))
    return jnp.exp(log_a), scale * jax.nn.sigmoid(i) * v


def rg_lru_grad(x, w, first, da, du):
    r, i, v = x
    r, i = jax.nn.sigmoid(r), jax.nn.sigmoid(i)
    a = jnp.exp(w[0] * r)
    scale = jnp.where(first, 1, jnp.sqrt(less_than_one(2 * w[0] * r)))
    through = jnp.where(first, 0, du * i * v * a / scale)
    dlog_a = a * (da - through)
    return (dlog_a * w[0] * r * (1 - r), du * scale * v * i * (1 - i), du * scale * i), (dlog_a * r,)


def rg_lru_plain(r, i, v, rate, first):
    log_a = rate / (1 + np.exp(-r))
    return np.exp(log_a), np.where(first, 1, np.sqrt(-np.expm1(2 * log_a))) * v / (1 + np.exp(-i))


def hgrn(x, w, first):
    f, c = x
    f = w[0] + (1 - w[0]) * jax.nn.sigmoid(f)
    return f, (1 - f) * c


def hgrn_grad(x, w, first, da, du):
    f, c = x
    s = jax.nn.sigmoid(f)
    df = da - du * c
    return (df * (1 - w[0]) * s * (1 - s), du * (1 - w[0]) * (1 - s)), (df * (1 - s),)


def hgrn_plain(f, c, low, first):
    f = low + (1 - low) / (1 + np.exp(-f))
    return f, (1 - f) * c


def min_gru(x, w, first):
    z = jax.nn.sigmoid(x[0])
    return 1 - z, z * jnp.where(x[1] >= 0, x[1] + 0.5, jax.nn.sigmoid(x[1]))


def min_gru_grad(x, w, first, da, du):
    z, s = jax.nn.sigmoid(x[0]), jax.nn.sigmoid(x[1])
    value, slope = jnp.where(x[1] >= 0, x[1] + 0.5, s), jnp.where(x[1] >= 0, 1, s * (1 - s))
    return ((du * value - da) * z * (1 - z), du * z * slope), ()


def min_gru_plain(z, c, first):
    z = 1 / (1 + np.exp(-z))
    return 1 - z, z * np.where(c >= 0, c + 0.5, 1 / (1 + np.exp(-c)))


def gated_hgrn(x, w, first):
    """The recurrence, beside an input and a weight that only the result needs."""
    return hgrn(x[:2], w, first)


def gated_hgrn_grad(x, w, first, da, du):
    dx, dw = hgrn_grad(x[:2], w, first, da, du)
    return (*dx, jnp.zeros_like(x[2])), (*dw, jnp.zeros_like(dw[0]))


def output_gate(h, x, w):
    """A way around the state, and a gate whose slope depends on it."""
    return jnp.tanh(h + x[2]) * x[1] + w[1] * h


def output_gate_grad(h, x, w, do):
    y = jnp.tanh(h + x[2])
    dz = do * x[1] * (1 - y * y)
    return dz + do * w[1], (jnp.zeros_like(dz), do * y, dz), (jnp.zeros_like(dz), do * h)


def output_gate_plain(h, f, c, z, low, skip):
    return np.tanh(h + z) * c + skip * h


DIAGONAL = {
    "rg_lru": Equations(3, 1, rg_lru, rg_lru_grad, rg_lru_plain),
    "hgrn": Equations(2, 1, hgrn, hgrn_grad, hgrn_plain),
    "gated_hgrn": Equations(
        *(3, 2, gated_hgrn, gated_hgrn_grad, lambda f, c, z, low, skip, first: hgrn_plain(f, c, low, first)),
        *(output_gate, output_gate_grad, output_gate_plain),
    ),
    "min_gru": Equations(2, 0, min_gru, min_gru_grad, min_gru_plain),
}
DIAGONAL["gated_hgrn before"] = DIAGONAL["gated_hgrn"]._replace(before=True)


def mamba(x, w, first):
    v, r, _ = x
    dt = jax.nn.softplus(r + w[0])
    return dt, dt * v


def mamba_grad(x, w, first, ddt, dv):
    v, r, z = x
    dr = (ddt + dv * v) * jax.nn.sigmoid(r + w[0])
    return (dv * jax.nn.softplus(r + w[0]), dr, jnp.zeros_like(z)), (dr, jnp.zeros_like(dr))


def mamba_out(y, x, w):
    return (y + w[1] * x[0]) * x[2] * jax.nn.sigmoid(x[2])


def mamba_out_grad(y, x, w, do):
    v, r, z = x
    s = jax.nn.sigmoid(z)
    dy, dz = do * z * s, do * (y + w[1] * v) * s * (1 + z * (1 - s))
    return dy, (dy * w[1], jnp.zeros_like(r), dz), (jnp.zeros_like(dy), dy * v)


def mamba_plain(v, r, z, bias, skip, A, B, C, pos, h):
    """The whole scan: what is read out, and the last state [batch, channels, N]."""
    dt = np.log1p(np.exp(r + bias))
    out = []
    for t in range(v.shape[1]):
        h = np.where((pos[:, t] == 0)[:, None, None], 0, h)
        h = np.exp(dt[:, t, :, None] * A) * h + (dt * v)[:, t, :, None] * B[:, t, None]
        out.append(np.sum(C[:, t, None] * h, -1))
    return (np.stack(out, 1) + skip * v) * z / (1 + np.exp(-z)), h
