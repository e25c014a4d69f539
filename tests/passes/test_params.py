"""Counts against published totals: Griffin, RecurrentGemma, Mamba, Mamba-2, Pythia, Llama, DCFormer, BERT."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archc.ir.graph import Graph
from archc.passes.params import params

TOTALS = [
    ("recurrentgemma", "2b", 2_682_862_080),
    ("recurrentgemma", "9b", 8_579_977_216),
    ("mamba", "130m", 129_135_360),
    ("mamba", "1.4b", 1_372_178_432),
    ("mamba", None, 2_768_345_600),
    ("mamba2", "130m", 128_989_632),
    ("mamba2", "1.3b", 1_343_757_312),
    ("mamba2", None, 2_702_599_680),
    ("pythia", "70m", 70_426_624),
    ("pythia", "1.4b", 1_414_647_808),
    ("pythia", None, 6_857_302_016),
    ("pythia", "12b", 11_846_072_320),
    ("llama", None, 8_030_261_248),
    ("llama", "2-7b", 6_738_415_616),
    ("llama", "2-70b", 68_976_648_192),
    ("mamba_in_llama", None, 8_436_898_048),
    ("dcformer", None, 2_849_567_232),
    ("dcformer", "405m", 419_516_416),
    ("bert", None, 110_106_428),
]
NON_EMBEDDING = [
    ("griffin", "100m", 89_303_808),
    ("griffin", "200m", 163_038_208),
    ("griffin", "400m", 355_292_672),
    ("griffin", "1.3b", 1_242_941_440),
    ("griffin", "3b", 2_834_648_064),
    ("griffin", "7b", 6_790_182_912),
    ("griffin", "14b", 13_763_941_376),
    ("hawk", "100m", 93_801_216),
    ("hawk", "1.3b", 1_304_225_792),
    ("hawk", "7b", 7_176_425_472),
    ("mqa_transformer", "100m", 80_308_992),
    ("mqa_transformer", "1.3b", 1_120_372_736),
    ("mqa_transformer", "7b", 5_940_449_280),
    ("recurrentgemma", "2b", 2_027_502_080),
    ("recurrentgemma", "9b", 7_531_401_216),
    ("pythia", "70m", 18_915_328),
    ("pythia", "1.4b", 1_208_602_624),
    ("pythia", None, 6_444_163_072),
    ("pythia", "12b", 11_327_027_200),
    ("mamba", None, 2_639_628_800),
    ("mamba2", None, 2_573_862_400),
]


@pytest.mark.parametrize(("name", "size", "total"), TOTALS)
def test_totals_are_the_published_ones(spec: Callable[..., Graph], name: str, size: str | None, total: int) -> None:
    assert params(spec(name, size)).total == total


@pytest.mark.parametrize(("name", "size", "count"), NON_EMBEDDING)
def test_non_embedding_counts_are_the_published_ones(
    spec: Callable[..., Graph], name: str, size: str | None, count: int
) -> None:
    assert params(spec(name, size)).non_embedding == count


def test_a_tied_head_counts_once_and_an_untied_one_as_head(model: Callable[[str], Graph]) -> None:
    text = "model m(width = 3, vocab = 5) {{ x = E[vocab width](tokens)\n logits = x @ {}[width -> vocab]\n{} }}"
    tied = params(model(text.format("E", "tied E")))
    assert (tied.total, tied.embedding, tied.head, tied.non_embedding) == (15, 15, 0, 0)
    untied = params(model(text.format("U", "")))
    assert (untied.total, untied.embedding, untied.head, untied.non_embedding) == (30, 15, 15, 0)


def test_frozen_weights_are_listed_but_not_counted(spec: Callable[..., Graph]) -> None:
    counted = params(spec("performer", "tiny"))
    assert {t.name for t in counted.frozen} == {"layers.0.favor.omega", "layers.1.favor.omega"}
    assert all("omega" not in t.name for t in counted.tensors)


def test_layers_and_the_rest_make_up_the_whole(spec: Callable[..., Graph]) -> None:
    counted = params(spec("griffin", "100m"))
    rows = counted.by_layer()
    assert set(rows) == {"", *(f"layers.{i}" for i in range(12))}
    assert sum(rows.values()) == counted.total
    # residual block = 2 D + MLP + mixer; MLP = 3 D F + 2 F + D; MQA = 2 D^2 + 2 D h + D
    width, hidden, head = 768, 3 * 768, 128
    assert rows["layers.2"] == (
        2 * width + 3 * width * hidden + 2 * hidden + width + 2 * width**2 + 2 * width * head + width
    )
