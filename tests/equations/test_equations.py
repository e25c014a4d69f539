"""What a spec means, by the compiler's reference, is what its paper says: logits of tiny models with random weights.

The other side is written from the papers' equations (plain, recurrences, attentions), often in another form than the
spec: sums over all earlier tokens where the spec has a scan, and the reverse.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from archc.ir.graph import Graph
from archc.passes.params import params
from archc.reference import Reference, random_weights
from archc.specs_index import program
from tests.equations import attentions, classics, hybrids, recurrences
from tests.equations.attentions import Compose, composed, gates, static, uncomposed
from tests.equations.plain import Array, Weights
from tests.equations.variations import BILINEAR, DYNAMIC, varied

Equations = Callable[[Weights, NDArray[np.int64]], Array]
LENGTH = 11
NEAR = 1e-6

PAPERS: dict[str, Equations] = {
    "griffin": partial(hybrids.griffin, pattern="rra", seen=4),
    "hawk": partial(hybrids.griffin, pattern="r"),
    "mqa_transformer": partial(hybrids.griffin, pattern="a"),
    "rwkv4": recurrences.rwkv4,
    "rwkv6": recurrences.rwkv6,
    "retnet": recurrences.retnet,
    "gla": recurrences.gla,
    "hgrn": recurrences.hgrn,
    "hgrn2": recurrences.hgrn2,
    "linear_transformer": recurrences.linear_transformer,
    "performer": recurrences.performer,
    "gated_deltanet": recurrences.gated_deltanet,
    "s4d": recurrences.s4d,
    "lru": recurrences.lru,
    "mamba_in_llama": partial(hybrids.mamba_in_llama, base=10_000),
    "mamba_in_zephyr": partial(hybrids.mamba_in_llama, base=10_000, seen=6),
    "mamba1_in_llama": partial(hybrids.mamba1_in_llama, base=10_000),
    "mamba1_in_zephyr": partial(hybrids.mamba1_in_llama, base=10_000, seen=6),
    "rnn": classics.rnn,
    "gru": classics.gru,
    "lstm": classics.lstm,
    "transformer": attentions.transformer,
    "gpt": attentions.gpt,
    "transformerpp": attentions.transformerpp,
    "mixtral": partial(attentions.mixtral, active=2),
    "llama3_1": partial(attentions.llama3_1, base=500_000, factor=8),
    "llama3_2": partial(attentions.llama3_1, base=500_000, factor=32, tied=True),
    "talking_heads": attentions.talking_heads,
    "low_rank": attentions.low_rank,
    "longformer_lm": partial(attentions.longformer_lm, n=4, step=2, far=1),
    "linformer": attentions.linformer,
    "reformer": attentions.reformer,
    "dcformer": partial(attentions.dcformer, n=32, pattern="lg", pre=composed("compose"), post=composed("compose_2")),
    "dcpythia": partial(attentions.dcpythia, n=8),
}
SMALLER = {"griffin": {"window": 4}}
"""Settings where the tiny size would not show what a family does in so few tokens."""


def require_equal(graph: Graph, equations: Equations, length: int = LENGTH) -> None:
    """AssertionError unless the reference and the equations give the same logits, with weights that differ from 0."""
    weights = random_weights(graph, 5)
    tokens = np.random.default_rng(6).integers(0, 97, length)
    (found, *_) = Reference(graph, weights).run({"tokens": tokens[None]})
    wanted = equations(Weights(weights), tokens)
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(found[0], wanted, rtol=0, atol=NEAR)


@pytest.mark.parametrize("name", PAPERS)
def test_a_spec_means_what_its_paper_says(name: str) -> None:
    require_equal(program(f"{name}:tiny", SMALLER.get(name, {})).graph, PAPERS[name])


# --- variations: one line of a spec, written otherwise -----------------------------------------------


def test_a_bilinear_s4d_is_one_line_away() -> None:
    graph = varied("s4d", *BILINEAR).graph
    require_equal(graph, partial(recurrences.s4d, bilinear=True))


ABLATIONS: dict[str, tuple[str, Compose, Compose, Callable[[int, int], int]]] = {
    # line, before and after the softmax, weights of the composition in a layer of width D with N heads (rank 2)
    "static only": ("before = static, after = static", static("static"), static("static_2"), lambda D, N: 2 * N * N),
    "gate only": (
        "before = gate_wise, after = gate_wise", gates("gate_wise"), gates("gate_wise_2"), lambda D, N: 4 * D * N,
    ),
    "low rank only": (
        "before = low_rank, after = low_rank", composed("low_rank", gate=False), composed("low_rank_2", gate=False),
        lambda D, N: 16 * D * N + 64 * N * N,
    ),
    "query-wise": (
        "before = query_wise, after = query_wise",
        composed("query_wise", key=False), composed("query_wise_2", key=False),
        lambda D, N: (20 * D * N + 64 * N * N) // 2,
    ),
    "key-wise": (
        "before = key_wise, after = key_wise",
        composed("key_wise", query=False), composed("key_wise_2", query=False),
        lambda D, N: (20 * D * N + 64 * N * N) // 2,
    ),
    "before the softmax only": (
        "after = uncomposed", composed("compose"), uncomposed, lambda D, N: (20 * D * N + 64 * N * N) // 2,
    ),
    "after the softmax only": (
        "before = uncomposed", uncomposed, composed("compose"), lambda D, N: (20 * D * N + 64 * N * N) // 2,
    ),
    "heads as they are": ("before = uncomposed, after = uncomposed", uncomposed, uncomposed, lambda D, N: 0),
}  # fmt: skip


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_of_dcformer_is_one_line_away(name: str) -> None:
    line, pre, post, count = ABLATIONS[name]
    graph = varied(
        "dcformer", DYNAMIC, f"dc_attention(rms_norm(x), heads, mask, {line})", depth=2, hidden=16, window=4
    ).graph
    width, heads = 128, 4
    plain = 2 * (4 * width**2 + 2 * (width // heads) + 3 * width * 16 + 2 * width) + width + 2 * 256 * width
    assert params(graph).total == plain + 2 * count(width, heads)
    require_equal(graph, partial(attentions.dcformer, n=4, pattern="lg", pre=pre, post=post))


def test_a_rank_of_dcformer_is_one_number() -> None:
    graph = varied(
        "dcformer", "fn compose(a[heads], x[width], rank = 2)", "fn compose(a[heads], x[width], rank = 3)"
    ).graph
    pre, post = composed("compose"), composed("compose_2")
    require_equal(graph, partial(attentions.dcformer, n=32, pattern="lg", pre=pre, post=post))


@pytest.mark.parametrize(("more", "pattern"), [(2, "lgll"), (6, "lgllllll")])
def test_a_mix_of_local_and_global_layers_is_a_number(more: int, pattern: str) -> None:
    found = program("dcformer:tiny", {"more": more, "depth": 9, "hidden": 16, "window": 3, "width": 32}).graph
    pre, post = composed("compose"), composed("compose_2")
    require_equal(found, partial(attentions.dcformer, n=3, pattern=pattern, pre=pre, post=post), length=6)
