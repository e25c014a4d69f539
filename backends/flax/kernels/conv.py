"""Causal depth-wise convolution over time."""

import jax
import jax.numpy as jnp
from kernels.conv_gpu import MOST as MOST_ON_GPU
from kernels.conv_gpu import causal_conv_gpu
from kernels.conv_tpu import MOST as MOST_ON_TPU
from kernels.conv_tpu import causal_conv_tpu
from kernels.tiles import Machine, machine

FUSED = {"tpu": (causal_conv_tpu, MOST_ON_TPU), "gpu": (causal_conv_gpu, MOST_ON_GPU)}  # with the most taps


def causal_conv(
    x: jax.Array,
    w: jax.Array,
    pos: jax.Array,
    state: jax.Array | None = None,
    *,
    bias: jax.Array | None = None,
    silu: bool = False,
    impl: Machine | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """y[t] = sum over j of w[taps - 1 - j] x[t - j]; a tap j steps back counts where pos >= j, so documents stay apart.

    x [B, T, *axes]; w [taps, *axes], the last tap weighs the present; pos [T] or [B, T]; state [B, taps - 1, *axes],
    the inputs before, oldest first. bias [*axes] is added to y, silu(y) = y sigmoid(y) taken of the sum. Sums are in
    at least single precision; returns y in the dtype of x and the new state (None without one). impl, interpret: for
    tests, the kernel of another machine.
    """
    taps, time = w.shape[0], x.shape[1]
    if state is None or pos.ndim == 1:
        before = jnp.zeros((x.shape[0], taps - 1, *x.shape[2:]), x.dtype)
    else:
        before = state.astype(x.dtype)
    seen = jnp.concatenate([before, x], axis=1)
    after = None if state is None else seen[:, time:]
    kernel, most = FUSED.get(machine(impl, time), (None, 0))
    if kernel is not None and taps <= most:
        return kernel(x, w, pos, before, bias, silu, interpret=interpret), after

    acc = jnp.promote_types(jnp.result_type(x, w), jnp.float32)
    weights = w.astype(acc)
    y = x.astype(acc) * weights[-1]
    for j in range(1, taps):
        tap = seen[:, taps - 1 - j :][:, :time].astype(acc) * weights[-1 - j]
        if pos.ndim == 2:
            tap = jnp.where((pos >= j).reshape(pos.shape + (1,) * (x.ndim - 2)), tap, 0)
        y = y + tap
    if bias is not None:
        y = y + bias.astype(acc)
    return (jax.nn.silu(y) if silu else y).astype(x.dtype), after
