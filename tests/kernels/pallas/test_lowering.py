"""The kernels go through the compilers of the machines they are for, on a machine that has none of them."""

import os
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from tests.kernels.pallas.equations import DIAGONAL

CALLS = {"tpu": "tpu_custom_call", "gpu": "__gpu$xla.gpu.triton"}
PLATFORMS = {"tpu": "tpu", "gpu": "cuda"}
SIZES = {"large": (2, 1024, 640), "odd": (2, 333, 200), "tiny": (1, 1, 3)}


@pytest.fixture(autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield


def diagonal(kernels, name, impl):
    """Forward and backward as one function of arrays."""
    equations = DIAGONAL[name]
    gates = kernels.gated.Gates(equations.gates, equations.gates_grad)

    def both(x, w, h, pos, dy, dh):
        values, pull = jax.vjp(lambda x, w, h: kernels.gated.gated_scan(gates, x, w, pos, h, impl=impl), x, w, h)
        return values, pull((dy, dh))

    def arguments(batch, time, channels, dtype):
        token = ((batch, time, channels), dtype)
        weights = [((channels,), jnp.float32)] * equations.weights
        state = ((batch, channels), jnp.float32)
        return [token] * equations.inputs, weights, state, ((batch, time), jnp.int32), token, state

    return both, arguments


def shaped(arguments, sharding=None):
    def is_array(x):
        return isinstance(x, tuple) and isinstance(x[0], tuple)

    def array(x):
        return jax.ShapeDtypeStruct(*x, sharding=sharding)

    return tuple(array(x) if is_array(x) else tuple(map(array, x)) for x in arguments)


@pytest.mark.parametrize(
    ("name", "dtype"), [("rg_lru", jnp.bfloat16), ("hgrn", jnp.float32), ("min_gru", jnp.bfloat16)]
)
@pytest.mark.parametrize("impl", ["tpu", "gpu"])
def test_a_gated_scan_lowers(kernels, impl, name, dtype):
    both, arguments = diagonal(kernels, name, impl)
    text = jax.jit(both).trace(*shaped(arguments(*SIZES["odd"], dtype))).lower(lowering_platforms=(PLATFORMS[impl],))
    assert text.as_text().count(f"@{CALLS[impl]}") == 2


@pytest.fixture(scope="module")
def tpu():
    """Devices to compile for, if the compiler of TPUs is installed (libtpu, in the version that jax names)."""
    if find_spec("libtpu") is None:
        pytest.skip("needs libtpu")
    from jax.experimental import topologies

    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # it asks the network what machine this is otherwise
    return SingleDeviceSharding(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", SIZES)
def test_a_gated_scan_compiles_for_a_tpu(kernels, tpu, size, dtype):
    """To machine code: block shapes, layouts and vector memory are as the chip wants them."""
    both, arguments = diagonal(kernels, "rg_lru", "tpu")
    assert jax.jit(both).lower(*shaped(arguments(*SIZES[size], dtype), tpu)).compile().as_text()
