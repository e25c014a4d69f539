"""Bytes of the arrays of kernels against those that the report prints: per token and element of the scan's tile."""

from collections.abc import Iterator
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from archc.fuse.scans import fused_scans
from archc.reports.kernels import explanation
from archc.specs_index import program
from tests.kernels.pallas.generated import gates_of

TIME, HEADS, DIM = 256, 2, 64  # keys and values of RWKV-6


def started(traced: Any) -> Iterator[Any]:
    """The calls of kernels in a program, in order."""
    for equation in traced.eqns:
        if equation.primitive.name == "pallas_call":
            yield equation
            continue
        for inner in jax.tree.leaves([*equation.params.values()], is_leaf=lambda z: hasattr(z, "eqns")):
            if hasattr(inner, "eqns"):
                yield from started(inner)


def moved(call: Any, dtype: str, elements: int = TIME * HEADS * DIM) -> float:
    """Bytes an element of all arrays of tokens that are of this type."""
    arrays = [v.aval for v in (*call.invars, *call.outvars) if v.aval.dtype == jnp.dtype(dtype)]
    return sum(z.size * z.dtype.itemsize for z in arrays if TIME in z.shape) / elements


@pytest.mark.parametrize("impl", ["tpu", "gpu"])
def test_gates_with_a_decay_per_key_move_what_the_report_says(kernels: Any, impl: Any) -> None:
    """Inputs once in every kernel, results once; in single precision only what one half of the way back leaves the
    other, and what a kernel keeps of states. Besides that the first of the halves reads all inputs, too.
    """
    (fused,) = fused_scans(program("rwkv6").graph).values()
    gates = gates_of(kernels, fused)
    assert [fused.scan.type.sizes[n] for n in ("key", "value")] == [DIM, DIM]

    def run(x: Any, w: Any, S: Any) -> Any:
        pos = jnp.arange(TIME)[None]
        return kernels.gated_key_scan.gated_chunked_key_scan(gates, x, w, pos, S, impl=impl)

    def both(*arrays: Any) -> Any:
        values, pull = jax.vjp(run, *arrays)
        return values, pull(values)

    with jax.enable_x64(False):
        x = tuple(jnp.zeros((1, TIME, HEADS, 1, DIM), jnp.bfloat16) for _ in gates.x_sides)
        w = tuple(jnp.zeros((HEADS, 1, DIM)) for _ in gates.w_sides)
        forward, *back = started(jax.make_jaxpr(both)(x, w, jnp.zeros((1, HEADS, 1, DIM, DIM))))
    told, text = fused.traffic, explanation(program("rwkv6"))
    assert told is not None
    assert moved(forward, "bfloat16") == told.forward
    assert moved(forward, "float32") == 0
    again = told.forward if impl == "gpu" else 0
    assert sum(moved(call, "bfloat16") for call in back) == told.backward + again
    left = sum(moved(call, "float32") for call in back)
    assert (f"takes {left:.3g} more" in text) == (impl == "gpu")
    chunks = forward.outvars[-1].aval.shape
    kept = 4 * prod(chunks) / (TIME * HEADS * DIM)
    assert f"{kept:.3g} bytes an element on a TPU" in text if impl == "tpu" else f"{kept:.3g} on a GPU" in text


@pytest.mark.parametrize("impl", ["tpu", "gpu"])
def test_a_normaliser_moves_what_the_report_says(kernels: Any, impl: Any) -> None:
    """Linear attention: nothing but inputs and results, in one pass each way; on a GPU one half of the way back leaves
    the other what is read out, the normaliser and a share of the log decays.
    """
    (fused,) = (found for found in fused_scans(program("linear_transformer").graph).values() if found.normaliser)
    gates = gates_of(kernels, fused)
    heads, key, dim = (fused.scan.type.sizes[n] for n in ("heads", "key", "value"))

    def run(x: Any, k: Any, q: Any, S: Any, z: Any) -> Any:
        pos = jnp.arange(TIME)[None]
        return kernels.normalised_scan.gated_normalised_scan(gates, (x,), (), k, q, pos, (S, z), impl=impl)

    def both(*arrays: Any) -> Any:
        values, pull = jax.vjp(run, *arrays)
        return values, pull(values)

    with jax.enable_x64(False):
        tokens = [jnp.zeros((1, TIME, heads, 1, axis), jnp.bfloat16) for axis in (dim, key, key)]
        states = [jnp.zeros((1, heads, 1, *axes)) for axes in ((key, dim), (key,))]
        forward, *back = started(jax.make_jaxpr(both)(*tokens, *states))
    told, text, elements = fused.traffic, explanation(program("linear_transformer")), TIME * heads * dim
    assert told is not None
    assert len(back) == (2 if impl == "gpu" else 1)
    assert moved(forward, "bfloat16", elements) == told.ideal_forward
    assert moved(forward, "float32", elements) == 0
    read_out = 2 * 2 if impl == "gpu" else 0  # written and read
    again = told.ideal_forward + read_out if impl == "gpu" else 0
    assert sum(moved(call, "bfloat16", elements) for call in back) == told.ideal_backward + again
    left = read_out + sum(moved(call, "float32", elements) for call in back)
    assert (f"takes {left:.3g} more" in text) == (impl == "gpu")
    kept = 4 * sum(prod(v.aval.shape) for v in forward.outvars[-2:]) / elements
    assert f"{kept:.3g} bytes an element on a TPU" in text if impl == "tpu" else f"{kept:.3g} on a GPU" in text
