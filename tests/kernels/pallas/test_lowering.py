"""The kernels go through the compilers of the machines they are for, on a machine that has none of them."""

import os
from collections.abc import Callable
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from archc.fuse.scans import fused_scans
from archc.specs_index import program
from tests.kernels.pallas.equations import DIAGONAL, mamba, mamba_grad, mamba_out, mamba_out_grad
from tests.kernels.pallas.generated import gates_of
from tests.kernels.pallas.mixes import LOW_RANK, RANK, STATIC
from tests.kernels.pallas.test_gated_complex import KINDS

CALLS = {"tpu": "@tpu_custom_call", "gpu": "@__gpu$xla.gpu.triton"}
PLATFORMS = {"tpu": "tpu", "gpu": "cuda"}
SIZES = {"large": (2, 1024, 640), "odd": (2, 333, 200), "tiny": (1, 2, 3)}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@pytest.fixture(autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope="module")
def tpu():
    """Devices to compile for, if the compiler of TPUs is installed (libtpu, in the version that jax names)."""
    if find_spec("libtpu") is None:
        pytest.skip("needs libtpu")
    from jax.experimental import topologies

    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # it asks the network what machine this is otherwise
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no TPU is opened, so other processes of the tests may load it
    return SingleDeviceSharding(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0])


def there_and_back(op: Callable, *arrays: jax.ShapeDtypeStruct) -> jax.stages.Traced:
    """`op`, and the gradients of its arguments for its own results."""

    def both(*arrays):
        values, pull = jax.vjp(op, *arrays)
        return values, pull(values)

    return jax.jit(both).trace(*arrays)


def diagonal(kernels, name, impl, size, dtype, sharding=None):
    equations, (batch, time, channels) = DIAGONAL[name], size
    gates = equations.of(kernels.gated.Gates)

    def of(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def run(x, w, h):
        pos = jnp.cumsum(jnp.ones((batch, time), jnp.int32), 1) - 1
        return kernels.gated.gated_scan(gates, x, w, pos, h, impl=impl)

    x, w = [of(dtype, *size)] * equations.inputs, [of(jnp.float32, channels)] * equations.weights
    return there_and_back(run, tuple(x), tuple(w), of(jnp.float32, batch, channels))


def complex_state(kernels, size, dtype, sharding=None, impl="tpu"):
    batch, time, channels = size

    def of(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def run(x, w, re, im):
        gates = kernels.gated_complex.ComplexGates(*KINDS["real before"])
        pos = jnp.cumsum(jnp.ones((batch, time), jnp.int32), 1) - 1
        y, last = kernels.gated_complex.gated_complex_scan(gates, x, w, pos, jax.lax.complex(re, im), impl=impl)
        return y, last.real, last.imag

    state = [of(jnp.float32, batch, channels)] * 2
    return there_and_back(run, (of(dtype, *size),) * 3, (of(jnp.float32, channels),) * 2, *state)


def selective(kernels, size, dtype, sharding=None, impl="tpu", *, keys=(), queries=()):
    """size: batch, time, and the axes of channels, of which keys and queries may have the first."""
    (batch, time, *axes), states = size, 16

    def of(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def run(x, w, A, B, C, h):
        gates = kernels.gated.Gates(mamba, mamba_grad, mamba_out, mamba_out_grad)
        pos = jnp.cumsum(jnp.ones((batch, time), jnp.int32), 1) - 1
        return kernels.gated.gated_selective_scan(gates, x, w, A, B, C, pos, h, impl=impl)

    x, w, A = (of(dtype, *size),) * 3, (of(jnp.float32, *axes),) * 2, of(jnp.float32, *axes, states)
    rows = (of(dtype, batch, time, *groups, states) for groups in (keys, queries))
    return there_and_back(run, x, w, A, *rows, of(jnp.float32, batch, *axes, states))


def in_groups(kernels, size, dtype, sharding=None, impl="tpu"):
    """Keys of the first of two axes of groups, queries of both: 16 channels a group, 10, or one."""
    *batch_and_time, channels = size
    groups = {640: (5, 8), 200: (5, 4), 3: (3, 1)}[channels]
    axes = *groups, channels // (groups[0] * groups[1])
    rows = {"keys": (groups[0], 1), "queries": groups}
    return selective(kernels, (*batch_and_time, *axes), dtype, sharding, impl, **rows)


def gated_silu(total, x, w):
    return w[0] * x[0] * jax.nn.silu(total)


def gated_silu_grad(total, x, w, do):
    s = jax.nn.sigmoid(total)
    y = total * s
    return do * w[0] * x[0] * s * (1 + total * (1 - s)), (do * w[0] * y,), (do * x[0] * y,)


def convolution(kernels, size, dtype, sharding=None, impl="tpu"):
    batch, time, channels = size
    activation = kernels.conv.Activation(gated_silu, gated_silu_grad)

    def run(x, w, state, bias, gate, scale):
        pos = jnp.cumsum(jnp.ones((batch, time), jnp.int32), 1) - 1
        more = {"tokens": (gate,), "weights": (scale,)}
        return kernels.conv.causal_conv(x, w, pos, state, bias=bias, activation=activation, **more, impl=impl)

    shapes = size, (4, channels), (batch, 3, channels), (channels,), size, (channels,)
    return there_and_back(run, *(jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape in shapes))


def chunked(kernels, size, dtype, sharding=None, impl="tpu", per_key=False):
    """Heads of 64 share keys of 128, or as much of that as there are channels."""
    (batch, time, channels), key = size, 128
    heads, dim = max(channels // 64, 1), min(channels, 64)

    def of(dtype, *shape):
        return jax.ShapeDtypeStruct((batch, *shape), dtype, sharding=sharding)

    def run(log_a, k, v, q, S):
        pos = jnp.cumsum(jnp.ones((batch, time), jnp.int32), 1) - 1
        scan = kernels.chunked_scan.chunked_key_scan if per_key else kernels.chunked_scan.chunked_scan
        return scan(log_a, k, v, q, pos, S, impl=impl)

    keys, values = of(dtype, time, 1, 1, key), of(dtype, time, 1, heads, dim)
    decays = of(jnp.float32, time, 1, heads, *((key,) if per_key else ()))
    return there_and_back(run, decays, keys, values, keys, of(jnp.float32, 1, heads, key, dim))


def chunked_key(kernels, size, dtype, sharding=None, impl="tpu"):
    return chunked(kernels, size, dtype, sharding, impl, per_key=True)


def chunked_gated(kernels, size, dtype, sharding=None, impl="tpu"):
    """Mamba-2: heads of 64 share keys of 128, or as much of that as there are channels."""
    (batch, time, channels), key = size, 128
    heads, dim = max(channels // 64, 1), min(channels, 64)
    (fused,) = fused_scans(program("mamba2:tiny").graph).values()
    gates = gates_of(kernels, fused)

    def of(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def width(side):
        return dim if side == "values" else 1

    def run(x, w, k, q, S):
        pos = jnp.cumsum(jnp.ones((batch, time), jnp.int32), 1) - 1
        return kernels.chunked_scan.gated_chunked_scan(gates, x, w, k, q, pos, S, impl=impl)

    x = tuple(of(dtype, batch, time, 1, heads, width(side)) for side in gates.x_sides)
    w = tuple(of(jnp.float32, 1, heads, width(side)) for side in gates.w_sides)
    keys, state = of(dtype, batch, time, 1, 1, key), of(jnp.float32, batch, 1, heads, key, dim)
    return there_and_back(run, x, w, keys, keys, state)


def chunked_key_gated(kernels, size, dtype, sharding=None, impl="tpu"):
    """RWKV-6, with heads of 64, or as much of that as there are channels."""
    (batch, time, channels) = size
    heads, dim = max(channels // 64, 1), min(channels, 64)
    (fused,) = fused_scans(program("rwkv6:tiny").graph).values()
    gates = gates_of(kernels, fused)

    def of(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def run(x, w, S):
        pos = jnp.cumsum(jnp.ones((batch, time), jnp.int32), 1) - 1
        return kernels.gated_key_scan.gated_chunked_key_scan(gates, x, w, pos, S, impl=impl)

    x = tuple(of(dtype, batch, time, heads, 1, dim) for _ in gates.x_sides)
    w = tuple(of(jnp.float32, heads, 1, dim) for _ in gates.w_sides)
    return there_and_back(run, x, w, of(jnp.float32, batch, heads, 1, dim, dim))


def chunked_normalised(kernels, size, dtype, sharding=None, impl="tpu"):
    """Linear attention: heads of 64, or of what there is, that share nothing."""
    (batch, time, channels), key = size, 64
    heads, dim = max(channels // key, 1), min(channels, key)
    (fused,) = (f for f in fused_scans(program("linear_transformer:tiny").graph).values() if f.normaliser)
    gates = gates_of(kernels, fused)

    def of(dtype, *shape):
        return jax.ShapeDtypeStruct((batch, *shape), dtype, sharding=sharding)

    def run(x, k, q, S, z):
        pos = jnp.cumsum(jnp.ones((batch, time), jnp.int32), 1) - 1
        return kernels.normalised_scan.gated_normalised_scan(gates, (x,), (), k, q, pos, (S, z), impl=impl)

    values, keys = (of(dtype, time, heads, 1, axis) for axis in (dim, key))
    return there_and_back(run, values, keys, keys, *(of(jnp.float32, heads, 1, *axes) for axes in ((key, dim), (key,))))


def composed(kernels, size, dtype, sharding=None, impl="tpu"):
    """Heads of 64, or one of what there is, composed by tokens before the softmax and by weights behind it."""
    (batch, time, channels), module = size, kernels.composed
    heads, dim = max(channels // 64, 1), min(channels, 64)

    def of(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def run(q, k, v, tokens, weights):
        return module.composed_attention(
            None, module.Composed(LOW_RANK, STATIC), q, k, v, kernels.pairs.Keys(jnp.arange(time), time),
            tokens=tokens, weights=weights, scale=0.1, before=255, impl=impl,
        )  # fmt: skip

    q, factors, gate = (of(dtype, batch, time, *axes) for axes in [(heads, dim), (RANK, heads), (heads,)])
    tokens = (factors, factors, gate) * 2 + (of(dtype, batch, time, 1),)
    return there_and_back(run, q, q, q, tokens, (of(jnp.float32, heads, heads), of(jnp.float32, heads)))


KERNELS = [
    *(selective, in_groups, convolution, composed),
    *(chunked, chunked_key, chunked_gated, chunked_key_gated, chunked_normalised),
]


@pytest.mark.parametrize(
    ("name", "dtype"), [("rg_lru", "bfloat16"), ("gated_hgrn", "float32"), ("min_gru", "bfloat16")]
)
@pytest.mark.parametrize("impl", ["tpu", "gpu"])
def test_a_gated_scan_lowers(kernels, impl, name, dtype):
    lowered = diagonal(kernels, name, impl, SIZES["odd"], DTYPES[dtype]).lower(lowering_platforms=(PLATFORMS[impl],))
    assert lowered.as_text().count(CALLS[impl]) == 2


@pytest.mark.parametrize("impl", ["tpu", "gpu"])
def test_a_gated_scan_of_a_complex_state_lowers(kernels, impl):
    traced = complex_state(kernels, SIZES["odd"], jnp.bfloat16, impl=impl)
    assert traced.lower(lowering_platforms=(PLATFORMS[impl],)).as_text().count(CALLS[impl]) == 2


def test_a_gated_scan_of_a_complex_state_compiles_for_a_tpu(kernels, tpu):
    assert complex_state(kernels, SIZES["odd"], jnp.bfloat16, tpu).lower().compile().as_text()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("traced", KERNELS)
def test_a_kernel_lowers(kernels, traced, dtype):
    lowered = traced(kernels, SIZES["odd"], DTYPES[dtype]).lower(lowering_platforms=("tpu",))
    assert lowered.as_text().count(CALLS["tpu"]) == (3 if traced is composed else 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("traced", KERNELS)
def test_a_kernel_of_a_gpu_lowers(kernels, traced, dtype):
    lowered = traced(kernels, SIZES["odd"], DTYPES[dtype], impl="gpu").lower(lowering_platforms=("cuda",))
    in_halves = traced in (
        chunked,
        chunked_key,
        chunked_gated,
        chunked_key_gated,
        chunked_normalised,
    )  # the backward pass
    assert lowered.as_text().count(CALLS["gpu"]) == (3 if traced is composed or in_halves else 2)


@pytest.mark.parametrize(("name", "dtype"), [("rg_lru", "bfloat16"), ("rg_lru", "float32"), ("gated_hgrn", "bfloat16")])
@pytest.mark.parametrize("size", SIZES)
def test_a_gated_scan_compiles_for_a_tpu(kernels, tpu, size, name, dtype):
    """To machine code: block shapes, layouts and vector memory are as the chip wants them."""
    assert diagonal(kernels, name, "tpu", SIZES[size], DTYPES[dtype], tpu).lower().compile().as_text()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("traced", KERNELS)
def test_a_kernel_compiles_for_a_tpu(kernels, tpu, traced, size, dtype):
    assert traced(kernels, SIZES[size], DTYPES[dtype], tpu).lower().compile().as_text()
