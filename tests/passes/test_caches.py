"""Derived caches: published sizes, and the rules that bound them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from archc.ir.graph import Graph
from archc.passes.caches import caches

ATTEND = """
    q = x @ W_q[dim = 3]
    k = x @ W_k[dim = 3]
    s = dot(queries(q), keys(k), over = dim)
    {}
"""


def total(graph: Graph, context: int) -> int:
    return sum(c.bytes(context) for c in caches(graph))


def by_kind(graph: Graph, context: int) -> dict[str, int]:
    out: dict[str, int] = {}
    for cache in caches(graph):
        out[cache.what] = out.get(cache.what, 0) + cache.bytes(context)
    return out


def test_recurrentgemma_2b_needs_what_its_authors_measure(spec: Callable[..., Graph]) -> None:
    # google-deepmind/recurrentgemma: 17,238,048 bytes with 8 counters of 4 bytes, which we derive from pos
    parts = by_kind(spec("recurrentgemma", "2b"), 100_000)
    assert parts == {"scan": 184_320, "conv": 276_480, "keys": 16_777_216}


@pytest.mark.parametrize(
    ("name", "size", "size_in_bytes"),
    [
        ("recurrentgemma", "9b", 26_230_832 - 12 * 4),
        ("hawk", "7b", 1_802_240),
        ("mamba", None, 23_590_000),
        ("mamba2", None, 170_460_000),
    ],
)
def test_states_of_published_models(
    spec: Callable[..., Graph], name: str, size: str | None, size_in_bytes: int
) -> None:
    graph = spec(name, size)
    found = total(graph, 1_000_000)
    if name.startswith("mamba"):  # theirs keep taps inputs of a convolution, one more than needed
        found += sum(c.bytes(1) // (c.tokens or 1) for c in caches(graph) if c.what == "conv")
        assert found == pytest.approx(size_in_bytes, rel=1e-3)
    else:
        assert found == size_in_bytes


def test_keys_grow_up_to_the_window(spec: Callable[..., Graph]) -> None:
    graph = spec("recurrentgemma", "2b")
    keys = [c for c in caches(graph) if c.what == "keys"]
    assert {c.tokens for c in keys} == {2048}
    assert keys[0].kept(7) == 7
    assert keys[0].kept(np.array([7, 2048, 5000])).tolist() == [7, 2048, 2048]


def test_a_global_cache_of_llama_is_131072_bytes_a_token(spec: Callable[..., Graph]) -> None:
    assert total(spec("llama"), 1) == 131_072
    assert total(spec("llama"), 1000) == 131_072_000


def test_key_factors_of_composed_heads_are_cached(spec: Callable[..., Graph]) -> None:
    # per token and layer: keys and values 2 N d, and 10 N for two compositions of rank 2 (factored form)
    layer = [c for c in caches(spec("dcformer")) if c.name.startswith("layers.1.")]
    assert sum(c.bytes(1) for c in layer) == 2 * (2 * 32 * 80 + 10 * 32)


def test_all_keys_that_meet_in_a_pair_are_kept_for_the_widest_sum(mixer: Callable[[str], Graph]) -> None:
    graph = mixer(
        ATTEND.format(
            "p = softmax(s, over = keys, where = window(3))\n"
            "r = softmax(s, over = keys, where = window(7))\n"
            "return dot(p, keys(x), over = keys) + dot(r, keys(2 * x), over = keys)"
        )
    )
    assert {c.tokens for c in caches(graph)} == {7}


def test_a_softmax_needs_all_the_keys_of_its_denominator(mixer: Callable[[str], Graph]) -> None:
    graph = mixer(
        ATTEND.format(
            "p = softmax(s, over = keys, where = window(9)) * where(window(3), 1, 0)\n"
            "return dot(p, keys(x), over = keys)"
        )
    )
    assert {c.tokens for c in caches(graph)} == {9}


def test_keys_of_separate_pairs_are_bounded_separately(mixer: Callable[[str], Graph]) -> None:
    graph = mixer(
        "p = where(window(3), keys(x), 0)\nr = where(window(7), keys(2 * x), 0)\n"
        "return sum(p, over = keys) + sum(r, over = keys)"
    )
    assert sorted(c.tokens or 0 for c in caches(graph)) == [3, 7]


def test_a_token_lifted_twice_is_cached_once(mixer: Callable[[str], Graph]) -> None:
    graph = mixer(
        "p = softmax(dot(queries(x), keys(x), over = width), over = keys, where = causal)\n"
        "return dot(p, keys(x), over = keys)"
    )
    assert len(caches(graph)) == 1
    assert caches(graph)[0].tokens is None


def test_positions_and_masks_are_not_cached(mixer: Callable[[str], Graph]) -> None:
    graph = mixer("p = where(causal and keys(pos) > 2, keys(x), 0) * queries(x)\nreturn sum(p, over = keys)")
    assert [c.what for c in caches(graph)] == ["keys"]


def test_the_value_before_of_a_running_value_is_free(mixer: Callable[[str], Graph]) -> None:
    graph = mixer("h = scan(decay = sigmoid(x), input = x)\nreturn h + prev(h) + prev(x)")
    assert [(c.what, c.tokens, c.stored) for c in caches(graph)] == [("scan", 1, "fp32"), ("prev", 1, "compute")]


def test_loops_keep_each_of_their_states(spec: Callable[..., Graph]) -> None:
    found = [c for c in caches(spec("lstm", "tiny")) if c.what == "loop"]
    assert sorted(c.name.rsplit(".", 1)[1] for c in found) == ["c", "c", "h", "h"]
    assert {c.bytes(1) for c in found} == {48 * 4}


def test_complex_states_take_8_bytes(spec: Callable[..., Graph]) -> None:
    (first, *_) = caches(spec("s4d", "tiny"))
    assert (first.stored, first.bytes(1)) == ("complex", 64 * 8 * 8)


def test_a_reason_names_the_expression(spec: Callable[..., Graph]) -> None:
    reasons = {c.name: c.why for c in caches(spec("griffin", "tiny"))}
    assert reasons["layers.2.local_mqa.k"] == "keys(k): later queries see the last 128 tokens"
    assert "conv(x @ W_x[rnn] + b_x[rnn], w_conv[taps rnn])" in reasons["layers.0.rg_lru.conv_u"]


def test_an_encoder_has_no_caches(spec: Callable[..., Graph]) -> None:
    assert caches(spec("bert", "tiny")) == ()
