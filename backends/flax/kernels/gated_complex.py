"""The diagonal scan of a complex state with the equations around it, on real and imaginary parts.

One kernel of the equations and the recurrence where there is one, as `gated_scan` has it for real states; on a CPU the
gates are ordinary array code around `scan` of complex numbers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from kernels.blocks_gpu import MISSING, operations
from kernels.complex_tiles import ComplexGates, forward_work, handed, read_parts
from kernels.gated import wide_arrays
from kernels.gated_complex_gpu import gated_complex_scan_gpu
from kernels.gated_complex_tpu import gated_complex_scan_tpu
from kernels.prev import prev
from kernels.scan import scan
from kernels.tiles import Arrays, Machine, accumulator, array, machine

__all__ = ["ComplexGates", "gated_complex_scan", "joined_parts"]


class Parts(NamedTuple):
    """A complex result: its real and its imaginary part."""

    real: jax.Array
    imag: jax.Array


def joined_parts(parts: Parts) -> jax.Array:
    """The complex numbers, in at least single precision."""
    wide = accumulator(*parts)
    return jax.lax.complex(parts.real.astype(wide), parts.imag.astype(wide))


def gated_complex_scan(
    gates: ComplexGates,
    x: Arrays,
    w: Arrays,
    pos: jax.Array,
    state: jax.Array | None = None,
    *,
    numbers: tuple[float, ...] = (),
    impl: Machine | None = None,
    interpret: bool = False,
) -> tuple[jax.Array | Parts, jax.Array | None]:
    """h[t] = a[t] h[t-1] + u[t] with complex a, u = gates(x[t], w, pos[t] == 0), from h = 0 where a document starts.

    x: arrays [B, T, *axes], w: arrays [*axes], or what broadcasts to them, all real. pos [T] or [B, T]; state complex
    [B, *axes], h of the token before; numbers: those that the gates take. Computes in at least single precision;
    returns the parts of h (before each token, if the gates say so), or of what the gates make of it, which may be real,
    each [B, T, *axes] in the dtype of x[0], and the last h, complex, as the new state (None without one). impl,
    interpret: for tests, the kernel of another machine.
    """
    x, w = wide_arrays(x, w)
    gates = handed(gates, numbers)
    chosen = _machine(gates, x, w, impl)
    if chosen == "xla":
        acc = accumulator(*x, *w)
        first = (pos == 0).reshape((-1, x[0].shape[1]) + (1,) * (x[0].ndim - 2))
        exact = tuple(z.astype(acc) for z in x), tuple(z.astype(acc) for z in w)
        a_re, a_im, u_re, u_im = gates.gates(*exact, first)
        u = jnp.broadcast_to(_complex(u_re, u_im, acc), x[0].shape)
        h, last = scan(_complex(a_re, a_im, acc), u, pos, state)
        h = prev(h, pos, state)[0] if gates.before else h
        ys = read_parts(gates, (h.real, h.imag), *exact)
    else:
        run = gated_complex_scan_tpu if chosen == "tpu" else gated_complex_scan_gpu
        ys, (re, im) = run(gates, x, w, pos, None if pos.ndim == 1 else state, interpret=interpret)
        last = None if state is None else jax.lax.complex(re, im)
    parts = tuple(y.astype(x[0].dtype) for y in ys)
    return parts[0] if gates.real else Parts(*parts), last


def _complex(real: jax.Array | float, imag: jax.Array | float, acc: jnp.dtype) -> jax.Array:
    """Complex numbers, of parts that may be numbers."""
    return jax.lax.complex(*jnp.broadcast_arrays(jnp.asarray(real, acc), jnp.asarray(imag, acc)))


def _machine(gates: ComplexGates, x: Arrays, w: Arrays, impl: Machine | None) -> Machine:
    """Whose kernel runs these gates; array code where they need what Triton does not have."""
    chosen = machine(impl, x[0].shape[1])
    one = array((1,), jnp.float32)
    given = tuple(one for _ in x), tuple(one for _ in w), array((1,), jnp.bool)
    lacks = chosen == "gpu" and set(operations(jax.make_jaxpr(forward_work(gates))(*given).jaxpr)) & MISSING
    return "xla" if lacks else chosen
