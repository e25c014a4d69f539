"""Causal depth-wise convolution over time."""

import jax
import jax.numpy as jnp
from kernels.blocks_gpu import in_triton
from kernels.conv_gpu import MOST as MOST_ON_GPU
from kernels.conv_gpu import causal_conv_gpu
from kernels.conv_tpu import MOST as MOST_ON_TPU
from kernels.conv_tpu import causal_conv_tpu
from kernels.taps import Activation, Work
from kernels.tiles import Arrays, Machine, array, machine

FUSED = {"tpu": (causal_conv_tpu, MOST_ON_TPU), "gpu": (causal_conv_gpu, MOST_ON_GPU)}  # with the most taps


def causal_conv(
    x: jax.Array,
    w: jax.Array,
    pos: jax.Array,
    state: jax.Array | None = None,
    *,
    bias: jax.Array | None = None,
    activation: Activation | None = None,
    tokens: Arrays = (),
    weights: Arrays = (),
    numbers: tuple[float, ...] = (),
    impl: Machine | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """y[t] = sum over j of w[taps - 1 - j] x[t - j]; a tap j steps back counts where pos >= j, so documents stay apart.

    x [B, T, *axes]; w [taps, *axes], the last tap weighs the present; pos [T] or [B, T]; state [B, taps - 1, *axes],
    the inputs before, oldest first. bias [*axes] is added to y, and the activation taken of the sum; it reads tokens
    [B, T, *axes], weights [*axes] or what broadcasts to these, and numbers. Computes in at least single precision;
    returns y in the dtype of x and the new state (None without one). impl, interpret: for tests, the kernel of another
    machine.
    """
    taps, time = w.shape[0], x.shape[1]
    if state is None or pos.ndim == 1:
        before = jnp.zeros((x.shape[0], taps - 1, *x.shape[2:]), x.dtype)
    else:
        before = state.astype(x.dtype)
    seen = jnp.concatenate([before, x], axis=1)
    after = None if state is None else seen[:, time:]
    activation = activation and activation.with_numbers(numbers)
    kernel, most = FUSED.get(_machine(activation, len(tokens), len(weights), impl, time), (None, 0))
    if kernel is not None and taps <= most:
        work = Work(activation, len(weights), interpret)
        return kernel(work, x, w, pos, before, bias, tokens, weights), after

    acc = jnp.promote_types(jnp.result_type(x, w), jnp.float32)
    exact = w.astype(acc)
    y = x.astype(acc) * exact[-1]
    for j in range(1, taps):
        tap = seen[:, taps - 1 - j :][:, :time].astype(acc) * exact[-1 - j]
        if pos.ndim == 2:
            tap = jnp.where((pos >= j).reshape(pos.shape + (1,) * (x.ndim - 2)), tap, 0)
        y = y + tap
    if bias is not None:
        y = y + bias.astype(acc)
    if activation is not None:
        y = activation.function(y, *(tuple(z.astype(acc) for z in each) for each in (tokens, weights)))
    return y.astype(x.dtype), after


def _machine(activation: Activation | None, tokens: int, weights: int, impl: Machine | None, time: int) -> Machine:
    """Whose kernel runs, `machine`; array code where what follows needs what Triton does not have."""
    chosen = machine(impl, time)
    if chosen != "gpu" or activation is None:
        return chosen
    one = array((1,), jnp.float32)
    return "gpu" if in_triton(activation.function, one, (one,) * tokens, (one,) * weights) else "xla"
