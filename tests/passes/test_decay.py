"""Which weights weight decay leaves alone, which stay in single precision, and what the bytes come to."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archc.ir.graph import Graph
from archc.passes.caches import caches
from archc.passes.decay import without_weight_decay
from archc.passes.memory import memory
from archc.passes.params import params
from archc.passes.precision import single_precision
from archc.passes.workload import Workload


def of_layer(names: frozenset[str], layer: int) -> set[str]:
    start = f"layers.{layer}."
    return {n.removeprefix(start) for n in names if n.startswith(start)}


def test_only_matrices_and_taps_decay_in_griffin(tiny: Callable[[str], Graph]) -> None:
    graph = tiny("griffin")
    decayed = frozenset(graph.named_weights()) - without_weight_decay(graph)
    assert of_layer(decayed, 0) == {
        *(f"rg_lru.{w}" for w in ("W_y", "W_x", "w_conv", "W_r", "W_i", "W_out")),
        *(f"geglu_affine.{w}" for w in ("W_gate", "W_up", "W_down")),
    }
    assert not {n for n in decayed if not n.startswith("layers.")}


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("mamba", {"selective_ssm.A_log", "selective_ssm.D", "selective_ssm.b_dt"}),
        ("mamba2", {"ssd.A_log", "ssd.D", "ssd.b_dt", "ssd.rms_norm.scale"}),
        ("s4d", {"ssm.log_A", "ssm.A_imag", "ssm.log_dt"}),
        ("rwkv4", {"time_mix.w", "time_mix.u", "channel_mix.mu_k"}),
        ("performer", {"favor.omega"}),
    ],
)
def test_what_decays_a_memory_is_left_alone(tiny: Callable[[str], Graph], name: str, weights: set[str]) -> None:
    assert weights <= of_layer(without_weight_decay(tiny(name)), 0)


def test_a_weight_of_the_model_that_bounds_a_decay_is_left_alone(tiny: Callable[[str], Graph]) -> None:
    assert "gamma" in without_weight_decay(tiny("hgrn"))
    assert "gamma" in single_precision(tiny("hgrn"))


def test_a_matrix_that_makes_a_gate_decays(mixer: Callable[[str], Graph]) -> None:
    graph = mixer(
        "return scan(decay = sigmoid(x @ W_a[width -> width'] + b_a[width]), input = x @ W_i[width -> width'])"
    )
    assert {"layers.0.f.W_a", "layers.0.f.W_i", "U"} == set(graph.named_weights()) - without_weight_decay(graph)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("mamba", {"selective_ssm.A_log", "selective_ssm.b_dt"}),
        ("mamba2", {"ssd.A_log", "ssd.b_dt"}),
        ("griffin", {"rg_lru.lambda_", "rg_lru.b_r"}),
        ("rwkv6", {"time_mix.w0"}),
        ("llama", set()),
    ],
)
def test_decays_stay_in_single_precision(tiny: Callable[[str], Graph], name: str, weights: set[str]) -> None:
    assert of_layer(single_precision(tiny(name)), 0) == weights


def test_weights_named_inside_fp32_stay_in_single_precision(mixer: Callable[[str], Graph]) -> None:
    graph = mixer("return fp32(x * exp(g[width]) + b[width]) * h[width]")
    assert single_precision(graph) == {"layers.0.f.g", "layers.0.f.b"}


def test_training_takes_18_bytes_a_parameter(tiny: Callable[[str], Graph]) -> None:
    graph = tiny("llama")
    total = params(graph).total
    found = memory(graph, Workload(mode="train"))
    # single-precision weights and their bfloat16 copies, gradients, two moments of AdamW
    assert (found.weights, found.gradients, found.optimizer, found.caches) == (6 * total, 4 * total, 8 * total, 0)
    assert memory(graph, Workload(mode="train"), compute=4).total == 16 * total


def test_decoding_takes_narrow_weights_and_caches(spec: Callable[..., Graph]) -> None:
    graph = spec("recurrentgemma", "2b")
    found = memory(graph, Workload(mode="decode", batch=3, context=100_000))
    single = sum(graph.named_weights()[n].type.elements for n in single_precision(graph))
    assert single == 18 * 2 * 2560
    assert found.weights == 2 * 2_682_862_080 + 2 * single
    assert found.caches == 3 * (184_320 + 276_480 + 16_777_216)


def test_frozen_weights_are_held_but_have_no_gradients(tiny: Callable[[str], Graph]) -> None:
    graph = tiny("performer")
    counted = params(graph)
    found = memory(graph, Workload(mode="train"))
    assert found.gradients == 4 * counted.total
    assert found.weights == 6 * counted.total + 4 * 2 * 16 * 32
    assert caches(graph)
