"""The equations of fused scans, against what the reference computes for decay, input and read-out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from archc.backends.torch.kernels import chunk_sizes

from archc.fuse import reasons
from archc.fuse.dag import Equations
from archc.fuse.fused_scan import PER_KEY, FusedScan, Handed
from archc.fuse.parts import PARTS, is_complex
from archc.fuse.scans import fused_scans
from archc.ir.graph import Graph, Value
from archc.ops.node import Node
from archc.passes.matrix_scans import split_decay
from archc.reference.frame import Array, Frame
from tests.fuse.evaluation import leaves, on_tile, part_of, rooms_of, run
from tests.fuse.numeric import evaluate

SPECS = Path(__file__).parents[2] / "specs"
RUN_FUSED = {
    "griffin": 1,
    "hawk": 1,
    "recurrentgemma": 1,
    "lru": 1,
    "hgrn": 4,  # one for each layer: the bounds of their gates differ
    "rwkv4": 2,
    "gla": 1,
    "hgrn2": 4,
    "rwkv6": 1,
    "mamba": 1,
    "falcon_mamba": 1,
    "mamba2": 1,
    "nemotron_h": 1,
    "linear_transformer": 1,
    "mamba1_in_llama": 1,
    "mamba1_in_zephyr": 1,
    "mamba_in_llama": 1,
    "mamba_in_zephyr": 1,
    "performer": 1,
}


def with_gates(graph: Graph) -> list[FusedScan]:
    return [f for f in fused_scans(graph).values() if f.gates is not None]


def same(mine: Array, theirs: Array) -> None:
    shape = np.broadcast_shapes(mine.shape, theirs.shape)
    np.testing.assert_allclose(np.broadcast_to(mine, shape), np.broadcast_to(theirs, shape), rtol=1e-11, atol=1e-13)


def parts_of(value: Value) -> tuple[str, ...]:
    return PARTS if is_complex(value) else ("",)


def read_out(frame: Frame, fused: FusedScan) -> dict[Node, Array]:
    """The leaves of what the equations behind a scan read."""
    assert fused.out is not None
    array = on_tile(frame, fused.start, fused)
    return {leaf: part_of(array, p) for leaf, p in zip(fused.out.given, parts_of(fused.start), strict=True)}


def check_values(graph: Graph) -> None:
    """Decay, entering input and read-out of every scan with gates."""
    frame = run(graph)
    for fused in with_gates(graph):
        at = leaves(frame, fused)
        assert fused.gates is not None
        first, second, *more = evaluate(fused.gates.outputs, at)
        if fused.is_complex:
            first, second = first + 1j * second, more[0] + 1j * more[1]
        decay, entering = (on_tile(frame, a, fused) for a in fused.scan.args)
        if fused.kind == "selective":
            split = split_decay(fused.found)
            assert split is not None
            rate = np.asarray(float(np.prod([s for _, s in (*split[0], *split[1])])))
            for value, _ in split[1]:
                rate = rate * on_tile(frame, value, fused)
            first = np.exp(first[..., None] * rate)
        if fused.kind == "chunked":
            first = np.exp(first)
        if fused.kind == "chunked_key":
            keys, (values, queries, *bonus) = second, more
            first, second = np.exp(first)[..., None, :], keys[..., None, :] * values[..., None]
            same(queries[..., None, :], on_tile(frame, fused.found.reads[0].query, fused))
            for b, whole in zip(bonus, fused.found.bonus, strict=True):
                same(b[..., None, :] * values[..., None], on_tile(frame, whole, fused))
        elif fused.kind != "diagonal":
            second = second[..., None]
            for factor in fused.found.factors["key"]:
                each = on_tile(frame, factor.operand, fused) ** factor.power
                second = second * (each if factor.names & {*fused.found.key} else each[..., None])
        same(first, decay)
        same(second, entering)
        if fused.out is not None:
            at |= read_out(frame, fused)
            result = on_tile(frame, fused.result, fused, fused.groups)
            for node, part in zip(evaluate(fused.out.outputs, at), parts_of(fused.result), strict=True):
                same(node, part_of(result, part))


@pytest.mark.parametrize("name", sorted(p.stem for p in SPECS.glob("*.arch")))
def test_the_equations_of_every_spec_are_what_the_reference_computes(tiny: Callable[[str], Graph], name: str) -> None:
    graph = tiny(name)
    assert len(with_gates(graph)) == RUN_FUSED.get(name, 0)
    if with_gates(graph):
        check_values(graph)


def check_derivatives(fused: FusedScan, equations: Equations, derived: Equations, at: dict[Node, Array]) -> None:
    """Central differences of the sum of the outputs, weighed as the incoming derivatives say.

    What is of a head, in a scan of outer products, has size one along values and keys: there the sum is over all.
    """
    fresh = [n for n in derived.given if n not in equations.given]
    rng = np.random.default_rng(5)
    shape = next(iter(at[x] for x in equations.x)).shape
    of_a_head = (*shape[:-1], 1)
    of_decay = rooms_of(fused)[PER_KEY] if fused.kind == "chunked_key" else of_a_head
    of_keys = tuple(f"d{name}" for name in ("log_a", "k", "q", "b"))
    sizes = {n: of_decay if n.name.endswith(of_keys) else shape for n in (*equations.given, *fresh)}
    at = {**at, **{n: rng.normal(size=size) for n, size in sizes.items() if n not in at}}

    def value(wanted: Node, step: float) -> Array:
        outputs = evaluate(equations.outputs, {**at, wanted: at[wanted] + step})
        parts = [at[f] * o for f, o in zip(fresh, outputs, strict=True)]
        if at[wanted].shape == of_a_head:
            parts = [p.sum(-1, keepdims=True) for p in parts]
        elif fused.kind == "chunked_key":  # others do not depend on it
            parts = [p for p in parts if p.shape == at[wanted].shape]
        return sum(parts)  # type: ignore[return-value]

    wanted = (*equations.given, *equations.x, *equations.w)
    for leaf, slope in zip(wanted, evaluate(derived.outputs, at), strict=True):
        numeric = (value(leaf, 1e-6) - value(leaf, -1e-6)) / 2e-6
        np.testing.assert_allclose(np.broadcast_to(slope, numeric.shape), numeric, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("name", sorted(RUN_FUSED))
def test_the_derivatives_of_every_spec_are_finite_differences(tiny: Callable[[str], Graph], name: str) -> None:
    graph = tiny(name)
    frame = run(graph)
    for fused in with_gates(graph):
        assert fused.gates is not None
        assert fused.gates_grad is not None
        check_derivatives(fused, fused.gates, fused.gates_grad, leaves(frame, fused))
        if fused.out is not None:
            assert fused.out_grad is not None
            at = leaves(frame, fused) | read_out(frame, fused)  # a denominator made of it is not near 0
            check_derivatives(fused, fused.out, fused.out_grad, at)


def names(handed: Sequence[Handed]) -> list[str]:
    return [h.name for h in handed]


def test_the_gates_of_griffin_reach_from_the_projections_to_the_state(tiny: Callable[[str], Graph]) -> None:
    (fused,) = with_gates(tiny("griffin"))
    assert names(fused.inputs) == ["y_in", "u", "r_in", "i_in"]
    assert names(fused.weights) == ["b_y", "b_r", "b_i", "hoisted_lambda"]
    assert [h.value.op for h in fused.inputs] == ["contract", "split", "contract", "contract"]
    assert fused.gates is not None
    assert set(fused.gates.names.values()) == {"r", "i", "log_a", "m", "a", "y"}
    assert not any(h.is_broadcast for h in fused.inputs)
    assert fused.traffic is not None
    assert (fused.traffic.forward, fused.traffic.backward) == (10, 18)
    assert fused.reason == (
        "the equations end at a projection ('y_in', 'r_in', 'i_in'), elements in other places ('u')"
    )


def test_the_output_gate_of_griffin_meets_the_state_in_merged_axes(tiny: Callable[[str], Graph]) -> None:
    (fused,) = with_gates(tiny("griffin"))
    assert fused.out is not None
    assert fused.result.names == ("rnn",)
    assert [[a.name for a in group] for group in fused.groups] == [["gates", "side"]]
    assert fused.inputs[0].groups == fused.groups
    assert fused.inputs[0].axes == ("gates", "side")
    assert fused.reads_linearly
    assert {fused.scan, *fused.scan.operands} <= fused.computed


def test_the_kernel_of_mamba_ends_behind_its_output_gate(tiny: Callable[[str], Graph]) -> None:
    (fused,) = with_gates(tiny("mamba"))
    assert names(fused.inputs) == ["u", "z", "dt_in"]
    assert names(fused.weights) == ["b_dt", "D"]
    assert fused.out is not None
    assert fused.result.op == "mul"
    assert fused.out.names[fused.out.outputs[0].args[0]] == "y"
    assert fused.traffic is not None
    assert fused.traffic.forward == 2 * 3 + 2 + 2 * 2 * 16 / 256  # u, z, dt; y; keys and queries


def fused_mixer(graph: Graph) -> FusedScan:
    check_values(graph)
    (fused,) = fused_scans(graph).values()
    return fused


def test_a_value_that_is_read_elsewhere_too_is_an_input(mixer: Callable[..., Graph]) -> None:
    body = """
    g = sigmoid(x @ W[width -> width'])
    h = scan(decay = {}, input = (1 - g) * x)
    return (2 * h) @ V[width -> width'] + {}
    """
    inside, outside = (fused_mixer(mixer(body.format("g", v))) for v in ("x", "g"))
    assert (names(inside.inputs), names(outside.inputs)) == (["x", "g_in"], ["x", "g"])
    assert {v.label for v in inside.computed} >= {"g"}
    assert not {v.label for v in outside.computed} & {"g"}
    cast = fused_mixer(mixer(body.format("fp32(g)", "x")))
    assert names(cast.inputs) == ["x", "g_in"]


def test_a_cast_is_repeated_rather_than_stored(mixer: Callable[..., Graph]) -> None:
    body = (
        "w = fp32(x)\nh = scan(decay = sigmoid(w), input = w)\nreturn h @ V[width -> width'] + w @ W[width -> width']"
    )
    fused = fused_mixer(mixer(body))
    assert [h.value.op for h in fused.inputs] == ["param"]


def test_axes_are_followed_through_functions_that_rename(mixer: Callable[..., Graph]) -> None:
    more = "fn gate(z[channel], b[channel]) { return sigmoid(z + b) }\n"
    fused = fused_mixer(mixer("return scan(decay = gate(x @ W[width -> width'], b[width]), input = x)", more))
    assert [h.axes for h in fused.inputs] == [("width",), ("width",)]
    assert names(fused.weights) == ["b"]


@pytest.mark.parametrize(
    ("gate", "inputs", "weights"),
    [
        ("sigmoid(z)", ["x", "z"], []),  # the function is element-wise: its argument is read
        ("sigmoid(tanh(z) * rms_norm(z))", ["x", "a"], []),  # it is not: its result is read
        ("sigmoid(z + b[channel])", ["x", "a"], []),  # a weight of its own has no name outside
    ],
)
def test_a_called_function_is_taken_in_whole_or_not_at_all(
    mixer: Callable[..., Graph], gate: str, inputs: list[str], weights: list[str]
) -> None:
    more = f"fn gate(z[channel]) {{ return {gate} }}\n"
    fused = fused_mixer(mixer("a = gate(x @ W[width -> width'])\nreturn scan(decay = a, input = x)", more))
    assert (names(fused.inputs), names(fused.weights)) == (inputs, weights)


def test_a_value_without_all_axes_is_marked_as_broadcast(mixer: Callable[..., Graph]) -> None:
    body = "f = x @ W[head = 2]\nu = split(x, width -> head side)\nreturn merge({}, head side -> width)"
    scan = "scan(decay = exp(-softplus(f + b[head])), input = u * pos)"
    fused = fused_mixer(mixer(body.format(scan).replace("f =", "side = width / 2\nf =")))
    assert {h.name: h.missing for h in fused.inputs} == {"f": ("side",), "u": (), "pos": ("head", "side")}
    assert [(h.name, h.is_broadcast) for h in fused.inputs] == [("u", False), ("pos", True), ("f", True)]
    assert fused.traffic is not None
    assert fused.traffic.forward == 2 + 1 + 0.5 + 2


def test_the_start_of_a_document_and_truths_from_outside(mixer: Callable[..., Graph]) -> None:
    body = """
    on = top(x, 2, over = width)
    a  = where(pos != 0 and on, sigmoid(x), 0.5)
    return scan(decay = a, input = where(pos == 0, 2 * x, x) * on)
    """
    fused = fused_mixer(mixer(body))
    assert names(fused.inputs) == ["x", "on"]


def test_numbers_and_weights_alone_are_gates_too(mixer: Callable[..., Graph]) -> None:
    half = fused_mixer(mixer("return scan(decay = 0.5, input = x)"))
    assert half.gates is not None
    assert half.gates.outputs[0].is_number(0.5)
    fixed = fused_mixer(mixer("return scan(decay = exp(-softplus(rate[width])), input = x)"))
    assert names(fixed.weights) == ["hoisted_rate"]
    assert fixed.gates is not None
    assert fixed.gates.outputs[0] is fixed.gates.w[0]


def test_gates_without_any_token_are_not_fused(mixer: Callable[..., Graph]) -> None:
    (fused,) = fused_scans(mixer("return x + scan(decay = 0.9, input = u[width]) @ W[width -> width']")).values()
    assert (fused.gates, fused.reason) == (None, "nothing in its gates varies with the token")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("s4d", "its numbers are complex, and the kernels of what is read out at once take real ones"),
        ("retnet", "there are no equations around it"),
    ],
)
def test_what_is_not_fused_says_why(tiny: Callable[[str], Graph], name: str, reason: str) -> None:
    assert {f.reason for f in fused_scans(tiny(name)).values()} == {reason}


def test_keys_that_run_in_parts_are_those_of_the_kernels() -> None:
    assert reasons.MOST_KEYS == chunk_sizes.MOST_KEYS
