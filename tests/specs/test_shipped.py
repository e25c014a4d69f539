"""The specs that come with archc: published totals, a tiny size each, documented, in canonical form."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from archc.diagnostics import ArchError, Source
from archc.elaborate import Library, Program, elaborate, load
from archc.elaborate.library import standard_files
from archc.ops.table import OPS
from archc.passes.params import Params, params
from archc.passes.support import check_causal
from archc.resources import paths, read
from archc.text import ast
from archc.text.format import format

SPECS = Path(__file__).parents[2] / "specs"
MODELS = [p.removesuffix(".arch") for p in paths("specs") if "/" not in p]

TOTALS = {
    # Botev et al. 2024, arXiv:2404.07839, table 1; the same from transformers on the meta device
    "recurrentgemma": {"2b": 2_682_862_080, "9b": 8_579_977_216},
    # De et al. 2024, arXiv:2402.19427, table 2: closed forms of the blocks, and 32,000 rows of embedding
    "griffin": {
        "100m": 113_879_808,
        "200m": 195_806_208,
        "400m": 404_444_672,
        "1.3b": 1_308_477_440,
        "3b": 2_932_952_064,
        "7b": 6_921_254_912,
        "14b": 13_927_781_376,
    },
    # Gu & Dao 2023, arXiv:2312.00752: the released checkpoints
    "mamba": {
        "130m": 129_135_360,
        "370m": 371_516_416,
        "790m": 793_204_224,
        "1.4b": 1_372_178_432,
        "2.8b": 2_768_345_600,
    },
    # Dao & Gu 2024, arXiv:2405.21060: the released checkpoints
    "mamba2": {
        "130m": 128_989_632,
        "370m": 368_346_624,
        "780m": 780_161_280,
        "1.3b": 1_343_757_312,
        "2.7b": 2_702_599_680,
    },
    # the released checkpoints
    "llama": {
        "2-7b": 6_738_415_616,
        "2-13b": 13_015_864_320,
        "2-70b": 68_976_648_192,
        "3-8b": 8_030_261_248,
    },
    "mistral": {"7b": 7_241_732_096},
    "falcon_mamba": {"7b": 7_272_665_088},
    # Biderman et al. 2023, arXiv:2304.01373: the released checkpoints
    "pythia": {
        "14m": 14_067_712,
        "31m": 30_494_720,
        "70m": 70_426_624,
        "160m": 162_322_944,
        "410m": 405_334_016,
        "1b": 1_011_781_632,
        "1.4b": 1_414_647_808,
        "2.8b": 2_775_208_960,
        "6.9b": 6_857_302_016,
        "12b": 11_846_072_320,
    },
    # Xiao et al. 2024, arXiv:2405.08553: from the released configurations
    "dcformer": {
        "405m": 419_516_416,
        "2.8b": 2_849_567_232,
        "7b": 6_973_968_384,
        "13b": 13_370_762_240,
        "33b": 33_197_713_920,
    },
    "dcpythia": {"2.8b": 2_829_499_392, "6.9b": 6_941_859_840},
    # Wang et al. 2024, arXiv:2408.15237: a quarter of the layers keep attention
    "mamba_in_llama": {None: 8_436_898_048},
    # Devlin et al. 2018, arXiv:1810.04805, with both pre-training heads
    "bert": {None: 110_106_428},
}

NON_EMBEDDING = {
    # arXiv:2402.19427, table 2, from the closed forms of the blocks
    "griffin": {
        "100m": 89_303_808,
        "200m": 163_038_208,
        "400m": 355_292_672,
        "1.3b": 1_242_941_440,
        "3b": 2_834_648_064,
        "7b": 6_790_182_912,
        "14b": 13_763_941_376,
    },
    "hawk": {
        "100m": 93_801_216,
        "200m": 173_716_480,
        "400m": 374_773_248,
        "1.3b": 1_304_225_792,
        "3b": 2_996_456_448,
        "7b": 7_176_425_472,
        "14b": 14_811_223_040,
    },
    "mqa_transformer": {
        "100m": 80_308_992,
        "200m": 141_681_664,
        "400m": 316_331_520,
        "1.3b": 1_120_372_736,
        "3b": 2_511_031_296,
        "7b": 5_940_449_280,
        "14b": 11_588_817_920,
    },
    "recurrentgemma": {"2b": 2_027_502_080, "9b": 7_531_401_216},
    # the model card of Pythia
    "pythia": {
        "70m": 18_915_328,
        "160m": 85_056_000,
        "410m": 302_311_424,
        "1b": 805_736_448,
        "1.4b": 1_208_602_624,
        "2.8b": 2_517_652_480,
        "6.9b": 6_444_163_072,
        "12b": 11_327_027_200,
    },
}


@cache
def library(name: str) -> Library:
    return load(Source(f"{name}.arch", read("specs", f"{name}.arch")), SPECS)


@cache
def program(name: str, size: str | None) -> Program:
    return elaborate(library(name), size=size)


def counts(name: str, size: str | None) -> Params:
    return params(program(name, size).graph)


def rows(table: dict[str, dict[str | None, int]] | dict[str, dict[str, int]]) -> list[tuple[str, str | None, int]]:
    return [(name, size, count) for name, sizes in table.items() for size, count in sizes.items()]


@pytest.mark.parametrize(("name", "size", "total"), rows(TOTALS))
def test_the_total_is_the_published_one(name: str, size: str | None, total: int) -> None:
    assert counts(name, size).total == total


@pytest.mark.parametrize(("name", "size", "count"), rows(NON_EMBEDDING))
def test_the_count_without_embedding_is_the_published_one(name: str, size: str | None, count: int) -> None:
    assert counts(name, size).non_embedding == count


@pytest.mark.parametrize("name", MODELS)
def test_every_spec_has_a_tiny_size_for_bytes_and_small_machines(name: str) -> None:
    found = program(name, "tiny")
    assert found.settings["vocab"].whole == 256 + (found.graph.kind == "encoder")  # its mask
    assert counts(name, "tiny").total < 4_000_000


@pytest.mark.parametrize("name", MODELS)
def test_every_size_elaborates(name: str) -> None:
    for size in program(name, None).sizes:
        assert counts(name, size).total > 0


@pytest.mark.parametrize("name", MODELS)
def test_a_model_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    (model,) = library(name).models
    assert model.name.text == name
    assert model.doc
    assert "arXiv:" in model.doc


def test_every_fn_of_the_standard_library_is_documented() -> None:
    fns = [item for file in standard_files() for item in file.items if isinstance(item, ast.FnDef)]
    assert [fn.name.text for fn in fns if not fn.doc] == []
    names = [fn.name.text for fn in fns]
    assert len(names) == len(set(names)), "std is one name space"
    assert not set(names) & set(OPS), "a fn of std would hide a builtin"


@pytest.mark.parametrize("path", paths("specs"))
def test_a_spec_is_in_canonical_form(path: str) -> None:
    text = read("specs", path)
    assert format(Source(path, text)) == text


def test_a_linformer_is_refused_where_it_must_not_look_ahead() -> None:
    text = read("specs", "linformer.arch").replace("encoder linformer", "model linformer")
    graph = elaborate(load(Source("linformer.arch", text), None)).graph
    with pytest.raises(ArchError) as caught:
        check_causal(graph)
    first, second = caught.value.diagnostics
    assert first.code == second.code == "E502"
    assert first.message == "not causal: a sum over time sees the whole sequence"
    assert first.span is not None
    assert first.span.text == "sum(x @ W_k[heads dim] * A[length rank](pos), over = time)"


# --- initial values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_biases_start_at_zero_filters_over_their_taps_and_factors_at_one(name: str) -> None:
    weights = program(name, "tiny").graph.named_weights()
    for path, weight in weights.items():
        last = path.rsplit(".", 1)[-1]
        if last.startswith("b_") and weight.init is None:
            assert weight.role == "bias", path
        if last.startswith("w_") and weight.init is None:
            assert (weight.role, weight.contracted) == ("matrix", ("taps",)), path
        if last == "scale":
            (one,) = weight.init.results if weight.init else ()
            assert one.attrs["params"] == (1,), path


@pytest.mark.parametrize("name", MODELS)
def test_a_tied_head_starts_small(name: str) -> None:
    weights = program(name, "tiny").graph.named_weights()
    if "U" in weights:
        return
    init = weights["E"].init
    assert init is not None, "the logits would start with a deviation of the root of the width"
    (normal,) = init.results
    assert normal.attrs["how"] == "normal"
    assert normal.attrs["params"][0] <= 1 / weights["E"].type.sizes["width"] ** 0.5
