"""Configs as they were published: each is the shipped spec at the size of its name, with as many weights as known."""

from __future__ import annotations

from fractions import Fraction
from math import prod
from pathlib import Path

import pytest

import archc
from archc.diagnostics import Source
from archc.elaborate import Program
from archc.exchange.exporting import equations, find_family
from archc.exchange.fields import read_config
from archc.specs_index import program

FOLDER = Path(__file__).parent / "published"
PUBLISHED = {
    "falcon-mamba-7b": ("falcon_mamba:7b", 7_272_665_088),
    "llama-2-7b": ("llama:2-7b", 6_738_415_616),
    "llama-3.2-1b": ("llama3_2:1b", 1_235_814_400),
    "mamba-2.8b": ("mamba:2.8b", 2_768_345_600),
    "mamba2-2.7b": ("mamba2:2.7b", 2_702_599_680),
    "mistral-7b": ("mistral:7b", 7_241_732_096),
    "nemotron-h-8b": ("nemotron_h:8b", 8_100_852_736),
    "pythia-6.9b": ("pythia:6.9b", 6_857_302_016),
    "recurrentgemma-2b": ("recurrentgemma:2b", 2_682_862_080),
    "recurrentgemma-9b": ("recurrentgemma:9b", 8_579_977_216),
}
"""File -> size of a shipped spec, weights (the sources are named where the sizes of the specs are tested)."""

OTHERWISE = {
    "bert-base": 109_514_298,  # its config names the head for masked words alone
    "gemma-2b": 2_506_172_416,
    "gpt-neox-20b": 20_554_567_680,
    "mistral-nemo-12b": 12_247_782_400,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-8b": 8_190_735_360,
    "redpajama-incite-3b": 2_775_864_320,
}
"""File -> weights, of such as are a variant of a shipped spec."""


def test_every_published_config_is_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {*PUBLISHED, *OTHERWISE}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_the_shipped_spec_at_its_size(name: str) -> None:
    spec, total = PUBLISHED[name]
    found = program(archc.import_hf(FOLDER / f"{name}.json"))
    assert count(found) == total
    assert equations(found.graph) == equations(program(spec).graph)


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_published_variant_has_as_many_weights_as_known(name: str) -> None:
    assert count(program(archc.import_hf(FOLDER / f"{name}.json"))) == OTHERWISE[name]


def test_a_bert_has_the_head_that_its_config_names() -> None:
    text = (FOLDER / "bert-base.json").read_text().replace("BertForMaskedLM", "BertForPreTraining")
    found = program(read_config(Source("bert-base.json", text)).text)
    assert count(found) == 110_106_428
    assert equations(found.graph) == equations(program("bert:base").graph)


def count(found: Program) -> int:
    weights = found.graph.named_weights().values()
    return sum(prod(a.size for a in weight.type.axes) for weight in weights)


@pytest.mark.parametrize(
    "name", ["llama-3.2-1b", "mistral-nemo-12b", "recurrentgemma-2b", "redpajama-incite-3b", "nemotron-h-8b"]
)
def test_the_fields_that_a_spec_is_exported_with_are_those_it_was_imported_from(name: str) -> None:
    source = Source(name, (FOLDER / f"{name}.json").read_text())
    config = read_config(source)
    found = program(archc.import_hf(FOLDER / f"{name}.json"))
    sizes = {key: Fraction(value.value) for key, value in found.settings.items()}
    again = find_family(found.graph, sizes)
    assert again.family is config.family
    said = {k: v for k, v in config.fields.items() if k not in config.family.free}
    assert {k: again.fields[k] for k in said} == said
