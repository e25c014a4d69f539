"""What mixers and whole models keep while they decode, from definitions and released code; weights of mixers, too."""

from __future__ import annotations

import math

import pytest

from archc.ir.graph import Graph
from archc.passes.caches import caches
from archc.passes.params import params
from archc.specs_index import program
from tests.specs.test_closed_forms import gated_delta, gla


def elements(graph: Graph, prefix: str, context: int = 1) -> int:
    """Numbers that a decoder keeps below a name after `context` tokens; a complex one is two."""
    kept = 0
    for cache in caches(graph):
        if cache.name.startswith(prefix):
            kept += cache.kept(context) * math.prod(a.size for a in cache.axes) * (1 + (cache.stored == "complex"))
    return kept


D = 2048
MIXERS: list[tuple[str, dict[str, int], str, int, int]] = [
    # spec, settings, instance, weights, state in numbers
    ("mamba", {}, "selective_ssm", 26_439_680, 65_536 + 3 * 2 * D),
    ("mamba2", {}, "ssd", 25_847_232, 524_288 + 3 * (2 * D + 256)),
    ("griffin", {"rnn": D, "gates": 16, "heads": 16}, "rg_lru", 13_129_728, D + 3 * D),
    ("rwkv4", {}, "time_mix", 4 * D * D + 5 * D, 8192),
    ("rwkv4", {}, "channel_mix", 9 * D * D + 2 * D, D),
    ("rwkv6", {}, "time_mix", 5 * D * D + (10 * 32 + 2 * 64 + 10) * D, 133_120),
    ("rwkv6", {}, "channel_mix", 8 * D * D + 2 * D, D),
    ("retnet", {"heads": 8}, "retention", 8 * D * D + 512, 1_048_576),
    ("gla", {"heads": 4}, "gated_linear_attention", gla(D), 524_288),
    ("hgrn", {}, "gated_recurrence", 4 * D * D + D, D),
    ("hgrn2", {}, "mixer", 4 * D * D + D, 128 * D),
    ("s4d", {"state": 32}, "ssm", 2 * D * 64 + 2 * D, 131_072),
    ("lru", {}, "linear_recurrence", 4 * D * D + 4 * D, 2 * D),
    ("performer", {"heads": 16, "features": 256}, "favor", 4 * D * D, 528_384),
    ("linear_transformer", {"heads": 16}, "linear_attention", 4 * D * D, 128 * D + D),
    ("gated_deltanet", {}, "delta_rule", gated_delta(D, 6, 256, 512), 6 * 256 * 512 + 3 * (2 * 1536 + 3072)),
    ("transformer", {"heads": 16}, "multi_head", 4 * D * D, 2 * D),
    ("low_rank", {"rank": 512}, "latent_attention", 5 * D * 512 + D * D + 2 * 512, 512),
    ("reformer", {"heads": 16, "rounds": 4}, "hashed_attention", 3 * D * D, 2 * D + 4 * 16),
    ("lstm", {}, "lstm_layer", 8 * D * D + 8 * D, 2 * D),
    ("gru", {}, "gated_unit", 6 * D * D + 6 * D, D),
]


@pytest.mark.parametrize(("spec", "settings", "instance", "weights", "state"), MIXERS)
def test_a_mixer_of_width_2048_has_the_weights_and_the_state_of_its_definition(
    spec: str, settings: dict[str, int], instance: str, weights: int, state: int
) -> None:
    """LRU counts a skip of width D besides its 4 N D + 3 N; attention keeps so many numbers for each token."""
    graph = program(spec, {"width": D, **settings}).graph
    prefix = f"layers.0.{instance}."
    assert sum(t.count for t in params(graph).tensors if t.name.startswith(prefix)) == weights
    assert elements(graph, prefix) == state


# --- decode states of whole models -------------------------------------------------------------------

GRIFFINS = {  # released code, executed; without its counters of 4 bytes a local layer
    "recurrentgemma:2b": 17_238_048 - 8 * 4,
    "recurrentgemma:9b": 26_230_832 - 12 * 4,
    "griffin:7b": 6_481_960 - 10 * 4,
    "hawk:7b": 1_802_240,
}


@pytest.mark.parametrize(("spec", "size"), GRIFFINS.items())
def test_a_full_cache_has_the_bytes_of_the_released_code(spec: str, size: int) -> None:
    assert sum(cache.bytes(8192) for cache in caches(program(spec).graph)) == size


MAMBAS = {  # released code, which keeps one input more for each convolution than it reads
    "mamba:130m": (737_280, 24 * 1536),
    "mamba:370m": (1_966_080, 48 * 2048),
    "mamba:790m": (2_949_120, 48 * 3072),
    "mamba:1.4b": (3_932_160, 48 * 4096),
    "mamba:2.8b": (6_553_600, 64 * 5120),
    "falcon_mamba:7b": (10_485_760, 64 * 8192),
    "mamba2:130m": (4_890_624, 24 * (1536 + 256)),
    "mamba2:370m": (13_025_280, 48 * (2048 + 256)),
    "mamba2:780m": (19_513_344, 48 * (3072 + 256)),
    "mamba2:1.3b": (26_001_408, 48 * (4096 + 256)),
    "mamba2:2.7b": (43_319_296, 64 * (5120 + 256)),
}


@pytest.mark.parametrize(("spec", "kept", "more"), [(spec, *row) for spec, row in MAMBAS.items()])
def test_a_state_has_as_many_numbers_as_the_released_code(spec: str, kept: int, more: int) -> None:
    assert elements(program(spec).graph, "") + more == kept


@pytest.mark.parametrize(("kept", "attention"), [("50", 16), ("25", 8), ("12.5", 4), ("0", 0)])
@pytest.mark.parametrize(
    ("spec", "state", "channels"), [("mamba_in_llama", 524_288, 6144), ("mamba1_in_llama", 65_536, 4096)]
)
def test_a_hybrid_keeps_keys_of_some_layers_and_states_of_the_others(
    spec: str, state: int, channels: int, kept: str, attention: int
) -> None:
    found = caches(program(f"{spec}:{kept}").graph)
    keys = [cache for cache in found if cache.what == "keys"]
    assert sum(cache.bytes(1) for cache in keys) == attention * 4096
    others = sum(math.prod(a.size for a in c.axes) * c.kept(1) for c in found if c.what != "keys")
    assert others == (32 - attention) * (state + 3 * channels)


@pytest.mark.parametrize(("size", "heads", "width"), [("405m", 16, 1024), ("2.8b", 32, 2560)])
def test_composed_heads_remember_their_factors_and_gates(size: str, heads: int, width: int) -> None:
    """Ten numbers a head and token besides keys and values, at rank 2; of a local layer as many tokens as it sees."""
    graph = program(f"dcformer:{size}").graph
    assert elements(graph, "layers.1.", 1000) == 1000 * (2 * width + 10 * heads)
    assert elements(graph, "layers.0.", 1000) == 256 * (2 * width + 10 * heads)


def test_a_causal_longformer_remembers_its_windows() -> None:
    graph = program("longformer_lm:small").graph
    assert elements(graph, "layers.0.", 4096) == 512 * 2 * 512
    assert elements(graph, "layers.11.", 4096) == (511 * 2 + 1) * 2 * 512  # n keys with gaps of 2
