"""Generated functions run as they are: PyTorch, JAX and Triton's interpreter against the equations in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from archc.backends.flax import gates as flax_gates
from archc.backends.torch import gates as torch_gates
from hypothesis import given, settings

from archc.fuse.dag import READ_OUT, SPECIAL, Equations
from archc.fuse.fused_scan import FusedScan, Handed
from archc.fuse.scans import fused_scans
from archc.ir.graph import Graph
from archc.ops.node import Node, of
from archc.reference.frame import Array
from tests.fuse.evaluation import leaves, run
from tests.fuse.expressions import TREE, equations
from tests.fuse.numeric import evaluate
from tests.fuse.workers import Worker, kernel_file, worker

__all__ = ["worker"]  # a fixture

SPECS = ("griffin", "hgrn", "rwkv4", "mamba", "falcon_mamba")
TIME, CHANNELS = 8, 4
Run = Callable[[FusedScan, dict[str, list[Array]]], dict[str, Array]]
"""Runs the generated functions of a scan on arrays by role; gives every output of `gates` and `out`, stacked."""


@pytest.fixture(scope="module")
def triton(worker: Worker) -> Run:

    def found(fused: FusedScan, given: dict[str, list[Array]]) -> dict[str, Array]:
        text = torch_gates.device_functions("g", fused)
        head = "import triton\nimport triton.language as tl\n"
        names = torch_gates.device_names(text)
        head += f"from kernels.device import {', '.join(names)}\n" if names else ""
        arrays = {f"{role}{i:02}": a for role, each in given.items() if role in "xwd" for i, a in enumerate(each)}
        arrays |= {role: given[role][0] for role in ("first", "read")}
        return worker(f"{head}\n\n{text}", arrays)

    return found


def in_jax(fused: FusedScan, given: dict[str, list[Array]]) -> dict[str, Array]:
    """The functions of JAX, values and derivatives."""
    text = flax_gates.gate_functions("g", fused)
    assert set(flax_gates.device_names(text)) <= set(flax_gates.DEVICE)
    place: dict[str, Any] = {}
    exec(kernel_file("flax", "device") + "\n\n" + text, place)
    xs, ws, first, read = (tuple(map(jnp.asarray, given[r])) for r in ("x", "w", "first", "read"))
    da, du = map(jnp.asarray, given["d"])
    dx, dw = place["g_gates_grad"](xs, ws, first[0] != 0, da, du)
    found = {"gates": stacked([*place["g_gates"](xs, ws, first[0] != 0), *dx, *dw])}
    if fused.out is not None:
        dread, dx, dw = place["g_out_grad"](read[0], xs, ws, da)
        found["out"] = stacked([place["g_out"](read[0], xs, ws), dread, *dx, *dw])
    return found


def in_torch(fused: FusedScan, given: dict[str, list[Array]]) -> dict[str, Array]:
    """The plain functions of PyTorch, and what autograd makes of them, element by element."""
    place: dict[str, Any] = {"F": torch.nn.functional}
    exec(kernel_file("torch", "numerics"), place)
    exec(torch_gates.plain_functions("g", fused), place)
    shape = given["x"][0].shape
    tensors = [torch.tensor(np.broadcast_to(a, shape)).requires_grad_() for r in ("x", "w") for a in given[r]]
    first, read = torch.tensor(given["first"][0]) != 0, torch.tensor(given["read"][0]).requires_grad_()
    da, du = map(torch.tensor, given["d"])
    a, u = (z.expand(shape) for z in place["g"](*tensors, first))
    found = {"gates": stacked([a, u, *gradients((a * da + u * du).sum(), tensors)])}
    if fused.out is not None:
        o = place["g_out"](read, *tensors).expand(shape)
        found["out"] = stacked([o, *gradients((o * da).sum(), [read, *tensors])])
    return found


def gradients(total: torch.Tensor, of: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    if not total.requires_grad:
        return [torch.zeros_like(t) for t in of]
    found = torch.autograd.grad(total, of, allow_unused=True)
    return [torch.zeros_like(t) if f is None else f for t, f in zip(of, found, strict=True)]


def stacked(found: Sequence[Any]) -> Array:
    arrays = [np.asarray(f.detach() if isinstance(f, torch.Tensor) else f) for f in found]
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    return np.stack([np.broadcast_to(a, shape) for a in arrays])


def expected(fused: FusedScan, given: dict[str, list[Array]]) -> dict[str, Array]:
    """The equations and their derivatives in NumPy."""
    assert fused.gates is not None
    found: dict[str, Array] = {}
    for name, value, derived in (("gates", fused.gates, fused.gates_grad), ("out", fused.out, fused.out_grad)):
        if value is None or derived is None:
            continue
        at: dict[Node, Array] = dict(zip((*value.x, *value.w), (*given["x"], *given["w"]), strict=True))
        at[value.first] = given["first"][0] != 0
        fresh = [n for n in derived.given if n.name != READ_OUT]
        at |= dict(zip(fresh, given["d"], strict=False)) | {value.first.home.leaf(READ_OUT): given["read"][0]}
        whole = [np.zeros((TIME, CHANNELS))]
        found[name] = stacked([*whole, *evaluate(value.outputs, at), *evaluate(derived.outputs, at)])[1:]
    return found


def drawn_arrays(fused: FusedScan, seed: int = 0) -> dict[str, list[Array]]:
    """Arrays for every role, at random."""
    rng = np.random.default_rng(seed)

    def tiles(count: int, rows: int = TIME) -> list[Array]:
        return [rng.normal(size=(rows, CHANNELS)) for _ in range(count)]

    first = (np.arange(TIME) % 3 == 0).astype(np.int32)[:, None]
    return {
        "x": tiles(len(fused.inputs)),
        "w": tiles(len(fused.weights), 1),
        "first": [first],
        "d": tiles(2),
        "read": tiles(1),
    }


def arrays_of_spec(graph: Graph, fused: FusedScan) -> dict[str, list[Array]]:
    """Eight tokens and four channels of what the reference computes."""
    assert fused.gates is not None
    found = leaves(run(graph), fused)

    def cut(leaf: Node) -> Array:
        return np.array(found[leaf].reshape(20, -1)[:TIME, :CHANNELS])

    weights = [cut(leaf)[:1] for leaf in fused.gates.w]
    return drawn_arrays(fused) | {"x": [cut(leaf) for leaf in fused.gates.x], "w": weights}


def agree(found: dict[str, Array], want: dict[str, Array], tolerance: float = 1e-10) -> None:
    assert found.keys() == want.keys()
    for name in want:
        scale = 1 + np.abs(want[name]).max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(found[name] / scale, want[name] / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", SPECS)
def test_the_functions_of_every_spec_compute_its_equations(
    tiny: Callable[[str], Graph], triton: Run, name: str
) -> None:
    graph = tiny(name)
    for fused in (f for f in fused_scans(graph).values() if f.gates is not None):
        given = arrays_of_spec(graph, fused)
        want = expected(fused, given)
        agree(in_torch(fused, given), want)
        agree(triton(fused, given), want)
        with jax.enable_x64(True):
            agree(in_jax(fused, given), want)


@pytest.mark.parametrize("name", SPECS)
def test_single_precision_is_enough(tiny: Callable[[str], Graph], triton: Run, name: str) -> None:
    graph = tiny(name)
    fused = next(f for f in fused_scans(graph).values() if f.gates is not None)
    given = {r: [a.astype(np.float32) for a in each] for r, each in arrays_of_spec(graph, fused).items()}
    given["first"] = [given["first"][0].astype(np.int32)]
    want = expected(fused, {r: [a.astype(np.float64) for a in each] for r, each in given.items()})
    agree(triton(fused, given), want, 3e-6)
    agree(in_jax(fused, given), want, 3e-6)


@pytest.fixture(scope="module")
def template(tiny: Callable[[str], Graph]) -> FusedScan:
    """A scan to put other equations into."""
    return next(iter(fused_scans(tiny("griffin")).values()))


def with_equations(template: FusedScan, drawn: Equations) -> FusedScan:
    def leaf(node: Node) -> Handed:
        return Handed(template.scan, template.groups, (), node.name)

    return replace(template, gates=drawn, inputs=tuple(map(leaf, drawn.x)), weights=tuple(map(leaf, drawn.w)), out=None)


@settings(max_examples=40, deadline=None)
@given(first=TREE, second=TREE)
def test_the_functions_of_random_equations_compute_them(
    triton: Run, template: FusedScan, first: Any, second: Any
) -> None:
    fused = with_equations(template, equations(first, second))
    given = drawn_arrays(fused)
    want = expected(fused, given)
    agree(in_torch(fused, given), want)
    agree(triton(fused, given), want)
    with jax.enable_x64(True):
        agree(in_jax(fused, given), want)


def test_a_negative_number_to_the_power_of_a_token(triton: Run, template: FusedScan) -> None:
    """`(-1) ^ pos` alternates."""
    drawn = equations("x0", "x1")
    fused = with_equations(
        template, replace(drawn, outputs=(of("pow", drawn.x[0].home.number(-1), drawn.x[0]), drawn.x[1]))
    )
    given = drawn_arrays(fused)
    given["x"][0] = np.arange(TIME * CHANNELS, dtype=np.float64).reshape(TIME, CHANNELS)
    found = triton(fused, given)["gates"][0]
    np.testing.assert_array_equal(found, 1 - 2 * (given["x"][0] % 2))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(in_jax(fused, given)["gates"][0], found)


HOSTILE = [
    "first",
    "xs",
    "tl",
    "torch",
    "jnp",
    "da",
    "d_tanh",
    "t1",
    "lambda",
    "expm1",
    "a",
    "read",
    "F",
    "ws",
    "sum_2",
]


@pytest.mark.parametrize("turn", range(5))
def test_names_of_the_spec_hide_nothing(triton: Run, template: FusedScan, turn: int) -> None:
    names = HOSTILE[3 * turn :] + HOSTILE[: 3 * turn]
    tree = ("mul", ("expm1", ("mul", "x0", "w0")), ("where", ("first",), ("tanh", ("add", "x1", "x2")), ("exp", "w1")))
    drawn = equations(tree, ("mul", tree, ("sigmoid", tree)))
    leaf = {n.name: name for n, name in zip((*drawn.x, *drawn.w), names, strict=False)}
    inner = [n for n in drawn.nodes if n.args and not n.truth]
    home = drawn.x[0].home
    new: dict[Node, Node] = {}
    for node in drawn.nodes:
        args = tuple(new[a] for a in node.args)
        new[node] = home.leaf(leaf[node.name]) if node.name in leaf else home.apply(node.op, *args) if args else node
    called = Equations(
        tuple(new[o] for o in drawn.outputs),
        tuple(home.leaf(leaf[n.name]) for n in drawn.x),
        tuple(home.leaf(leaf[n.name]) for n in drawn.w),
        (),
        {new[n]: name for n, name in zip(inner, names[5:] + names[:5], strict=False)},
    )
    fused = with_equations(template, called)
    given = drawn_arrays(fused)
    want = expected(fused, given)
    agree(in_torch(fused, given), want)
    agree(triton(fused, given), want)
    with jax.enable_x64(True):
        agree(in_jax(fused, given), want)


def test_a_spec_reads_like_a_spec(tiny: Callable[[str], Graph]) -> None:
    (fused,) = fused_scans(tiny("griffin")).values()
    text = torch_gates.device_functions("rg_lru_h", fused)
    assert text.split("\n\n\n")[0] == RG_LRU
    assert torch_gates.device_names(text) == ["expm1_from", "gelu_tanh"]
    assert SPECIAL not in text


RG_LRU = '''@triton.jit
def rg_lru_h_device(xs, ws, first):
    """The decay and the input of the scan 'h' [gates side].

    x: y_in, u, r_in, i_in [gates side]. w: b_y, b_r, b_i, hoisted_lambda [gates side]. first: whether a document
    starts.
    """
    _, u, r_in, i_in = xs
    _, b_r, b_i, hoisted_lambda = ws
    r = tl.sigmoid(r_in + b_r)
    log_a = hoisted_lambda * r
    a = tl.exp(log_a)
    m = tl.where(first, 1.0, tl.sqrt(-expm1_from(2.0 * log_a, a * a)))
    i = tl.sigmoid(i_in + b_i)
    return a, m * i * u
'''.rstrip()
