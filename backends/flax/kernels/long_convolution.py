"""Scans that are read out at once and whose decay is the same for every token: a convolution, by Fourier transforms.

y[t] = sum_n c[n] h[t, n], h[t] = a h[t-1] + u[t] is y = K * u with K[l] = sum_n c[n] a[n]^l. No state of any token is
kept, and T tokens take O(T log T). (Gu et al. 2022, arXiv:2111.00396, section 2.3)
"""

import jax
import jax.numpy as jnp
from kernels.scan import scan


def long_convolution(
    a: jax.Array, u: jax.Array, c: jax.Array, pos: jax.Array, state: jax.Array | None = None
) -> tuple[jax.Array, jax.Array | None]:
    """Of a, c [*C, N] or what broadcasts to that, real or complex, and u [B, T, *C]: y [B, T, *C], and the last state.

    y is complex if a or c is, else in the dtype of u. state: [B, *C, N] or None. The convolution is of whole documents
    from nothing, pos [T]; packed ones, and what continues a state or gives one, are scanned.
    """
    a, c = jnp.broadcast_arrays(a, c)
    u = jnp.broadcast_to(u, (*u.shape[:2], *a.shape[:-1]))
    wide = jnp.promote_types(jnp.promote_types(a.dtype, c.dtype), jnp.promote_types(u.dtype, jnp.float32))
    if state is not None or pos.ndim == 2:
        h, state = scan(a, jnp.broadcast_to(u[..., None], (*u.shape, a.shape[-1])), pos, state)
        y = (h * c).sum(-1)
    else:
        y = _convolved(u, _impulse(a.astype(wide), c.astype(wide), u.shape[1]))
    return (y if jnp.iscomplexobj(y) else y.astype(u.dtype)), state


def _impulse(a: jax.Array, c: jax.Array, time: int) -> jax.Array:
    """K [*C, T]: powers of a within blocks of about sqrt(T) steps, times those at the beginnings of blocks."""
    side = 1 << (time.bit_length() + 1) // 2
    within = _powers(a, side)
    starts = _powers(within[..., -1] * a, -(-time // side))
    blocks = jnp.einsum("...ni,...nj->...ij", c[..., None] * starts, within)
    return blocks.reshape(*blocks.shape[:-2], -1)[..., :time]


def _powers(a: jax.Array, count: int) -> jax.Array:
    """a^0, a^1, ...: [..., count], by doubling, which a zero survives."""
    powers = jnp.ones_like(a)[..., None]
    while powers.shape[-1] < count:
        powers = jnp.concatenate([powers, powers * a[..., None]], -1)
        a = a * a
    return powers[..., :count]


def _convolved(u: jax.Array, kernel: jax.Array) -> jax.Array:
    """sum over s <= t of kernel[t - s] u[s], of u [B, T, *C] and kernel [*C, T], as real convolutions."""
    if jnp.iscomplexobj(u):
        return _convolved(u.real, kernel) + 1j * _convolved(u.imag, kernel)
    time = u.shape[1]
    length = 1 << (2 * time - 1).bit_length()  # zeros keep the end from reaching the beginning
    parts = (kernel.real, kernel.imag) if jnp.iscomplexobj(kernel) else (kernel,)
    spectrum = jnp.fft.rfft(u.astype(parts[0].dtype), length, 1)
    found = []
    for part in parts:
        product = spectrum * jnp.moveaxis(jnp.fft.rfft(part, length, -1), -1, 0)
        found.append(jnp.fft.irfft(product, length, 1)[:, :time])
    return jax.lax.complex(*found) if len(found) > 1 else found[0]
