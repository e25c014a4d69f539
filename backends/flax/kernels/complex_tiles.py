"""Complex numbers as pairs of real tiles, and the gates of scans whose state is complex."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from kernels.tiles import Arrays, with_numbers_at

Pair = tuple[jax.Array, jax.Array]


class ComplexGates(NamedTuple):
    """The equations around a scan of complex numbers, on their real and imaginary parts; see `kernels.tiles.Gates`.

    gates(x, w, first) -> (a_re, a_im, u_re, u_im), where what is the same for every token may come as a weight or a
    number; gates_grad(x, w, first, da_re, da_im, du_re, du_im) -> (dx, dw). out(h_re, h_im, x, w) -> o and
    out_grad(h_re, h_im, x, w, do) -> (dh_re, dh_im, dx, dw), if anything follows the state; o is real if `real` says
    so, else o_re, o_im, and so is do. before: what is read is the state before each token.
    """

    gates: Callable[[Arrays, Arrays, jax.Array], Arrays]
    gates_grad: Callable[..., tuple[Arrays, Arrays]]
    out: Callable[..., Any] | None = None
    out_grad: Callable[..., Any] | None = None
    real: bool = False
    before: bool = False


def handed(gates: ComplexGates, numbers: tuple[float, ...]) -> ComplexGates:
    """Gates of x and w alone, from gates that take numbers as well."""
    if not numbers:
        return gates
    return gates._replace(
        gates=with_numbers_at(gates.gates, 1, numbers),
        gates_grad=with_numbers_at(gates.gates_grad, 1, numbers),
        out=None if gates.out is None else with_numbers_at(gates.out, 3, numbers),
        out_grad=None if gates.out_grad is None else with_numbers_at(gates.out_grad, 3, numbers),
    )


def plus(a: Pair, b: Pair) -> Pair:
    """The sum."""
    return a[0] + b[0], a[1] + b[1]


def times(a: Pair, b: Pair) -> Pair:
    """The product."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def turned(a: Pair) -> Pair:
    """The conjugate: by it derivatives of a product are multiplied, real and imaginary parts being numbers apart."""
    return a[0], -a[1]


def pick(condition: jax.Array, a: Pair, otherwise: float = 0) -> Pair:
    """A pair where the condition holds, else a real number."""
    return jnp.where(condition, a[0], otherwise), jnp.where(condition, a[1], 0)


def token_gates(gates: ComplexGates, x: Arrays, w: Arrays, first: jax.Array, live: jax.Array) -> tuple[Pair, Pair]:
    """Decay and input; what is no token decays by nothing and adds nothing, so that the state survives."""
    a_re, a_im, u_re, u_im = (jnp.asarray(part, x[0].dtype) for part in gates.gates(x, w, first))
    return pick(live, pick(~first, (a_re, a_im)), 1), pick(live, (u_re, u_im))


def read_parts(gates: ComplexGates, h: Pair, x: Arrays, w: Arrays) -> Arrays:
    """What a scan gives back of its states: two parts, or a real result."""
    if gates.out is None:
        return h
    found = gates.out(*h, x, w)
    return (found,) if gates.real else found


def read_parts_grad(gates: ComplexGates, h: Pair, x: Arrays, w: Arrays, d: Arrays) -> tuple[Pair, Arrays, Arrays]:
    """The derivatives of `read_parts` by h, x and w, those by x and w being empty if it is h itself."""
    if gates.out_grad is None:
        return (d[0], d[1]), (), ()
    d_re, d_im, dx, dw = gates.out_grad(*h, x, w, *d)
    return (d_re, d_im), dx, dw


def forward_work(gates: ComplexGates) -> Callable[[Arrays, Arrays, jax.Array], object]:
    """What a forward pass computes of the gates and of what follows, for estimates of its cost."""
    return lambda x, w, first: (gates.gates(x, w, first), read_parts(gates, (x[0], x[0]), x, w))


def backward_work(gates: ComplexGates) -> Callable[[Arrays, Arrays, jax.Array], object]:
    """What a backward pass computes of the gates and of what follows, for estimates of its cost."""

    def found(x: Arrays, w: Arrays, first: jax.Array) -> object:
        parts = tuple(jnp.broadcast_to(part, x[0].shape) for part in gates.gates(x, w, first))
        d = (x[0],) if gates.real else (x[0], x[0])
        return gates.gates_grad(x, w, first, *parts), read_parts_grad(gates, (x[0], x[0]), x, w, d)

    return found
