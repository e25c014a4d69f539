"""Reports against published figures and against counts made here by other means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import archc
from archc import api
from archc.emit.project import model_code
from archc.reports.build import build
from archc.reports.summary import summary
from archc.reports.text import tables
from archc.specs_index import program, shipped

CASES = Path(__file__).parents[1] / "parity" / "cases"
SMALL = """
model small(width = 8, vocab = 11, depth = 3) {
    block layer {
        u = conv(x, w_conv[taps = 4 width])
        x = x + tanh(scan(decay = 0.5, input = u)) @ W[width -> width']
    }
    x = E[vocab width](tokens)
    x = stack(x, depth, [layer])
    logits = x @ U[width -> vocab]
}
"""


def test_recurrentgemma_decodes_from_the_bytes_that_were_published() -> None:
    report = archc.report("recurrentgemma:2b", context=100_000)
    assert report.params.total == 2_682_862_080
    assert report.cache.by_kind == {"scan": 184_320, "conv": 276_480, "keys": 16_777_216}
    assert report.cache.bytes_per_sequence == 184_320 + 276_480 + 16_777_216
    assert report.pattern == "(recurrent x 2, local) x 8, recurrent x 2"


def test_a_report_of_a_small_model_is_what_a_hand_counts() -> None:
    report = archc.report(SMALL, batch=2, seq=16, context=100)
    layer = 4 * 8 + 8 * 8
    assert report.params.total == 11 * 8 + 3 * layer + 8 * 11
    assert (report.params.embedding, report.params.head, report.params.non_embedding) == (88, 88, 3 * layer)
    assert report.flops.forward_per_token.matrix == 3 * 2 * 8 * 8 + 2 * 8 * 11
    assert report.flops.forward_per_token.scan == 3 * 2 * 8
    assert report.flops.train_per_token.matrix == 3 * report.flops.forward_per_token.matrix
    assert report.cache.bytes_per_sequence == 3 * (3 * 8 * 2 + 8 * 4)
    assert report.decoding.caches == 2 * report.cache.bytes_per_sequence
    assert (report.training.gradients, report.training.optimizer) == (4 * report.params.total, 8 * report.params.total)
    states = {state.name: state for state in report.cache.states}
    assert all(state.layers == 3 for state in states.values())
    assert [state.why for state in states.values()] == [
        "conv(x, w_conv[taps = 4 width]): the taps weigh the last 3 inputs besides the present one",
        "scan(decay = 0.5, input = u): the running value",
    ]


@pytest.mark.parametrize("spec", shipped())
def test_blocks_and_tensors_add_up_to_the_totals(spec: str) -> None:
    checked = program(spec)
    report = build(checked, batch=1, seq=256, context=256)
    assert sum(block.total for block in report.params.blocks) == report.params.total
    assert sum(tensor.count * tensor.layers for tensor in report.params.tensors) == report.params.total
    assert sum(state.bytes * state.layers for state in report.cache.states) == report.cache.bytes_per_sequence
    for unit in ("matrix", "vector", "scan"):
        blocks = sum(getattr(block.forward_per_token, unit) * block.layers for block in report.flops.blocks)
        assert blocks == pytest.approx(getattr(report.flops.forward_per_token, unit))
    assert summary(checked).startswith(f"OK {report.name}")
    assert all(line in tables(report) for line in report.conventions)


def test_what_attention_was_recognised_and_which_scan_it_is() -> None:
    griffin = archc.report("griffin:tiny")
    assert [(pairs.block, pairs.fused) for pairs in griffin.attention] == [("local", True)]
    assert "4 query heads on 1 key heads of 48, each sees the last 128 keys" in griffin.attention[0].sentence
    assert [(scan.kind, scan.layers) for scan in griffin.scans] == [("diagonal", 4)]
    assert {scan.kind for scan in archc.report("mamba:tiny").scans} == {"selective"}
    assert {scan.kind for scan in archc.report("mamba2:tiny").scans} == {"chunked"}
    assert {pairs.fused for pairs in archc.report("dcformer:tiny").attention} == {False}


def test_kinds_of_layers_that_differ_in_arguments_are_told_apart() -> None:
    report = archc.report("dcformer:tiny")
    assert report.pattern == "(transformer 1, transformer 2) x 2"
    assert {state.limit for state in report.cache.states if state.block == "transformer 1"} == {32}
    assert {state.limit for state in report.cache.states if state.block == "transformer 2"} == {None}


def test_json_has_every_answer_and_reads_back() -> None:
    report = archc.report("griffin:tiny", {"width": 96}, batch=2, seq=64, context=32)
    data = json.loads(report.model_dump_json())
    assert data["params"].keys() >= {"total", "embedding", "non_embedding"}
    assert data["flops"].keys() >= {"forward_per_token", "train_per_token", "decode_per_token"}
    assert data["flops"]["decode_per_token"].keys() == {"matrix", "vector", "scan"}
    assert data["cache"].keys() >= {"bytes_per_sequence", "states"}
    assert data["settings"]["width"] == 96
    assert type(data["settings"]["width"]) is int
    assert type(report).model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize(
    ("case", "beginning"),
    [
        ("delta_rules_with_numbers_of_their_calls", "loop over [heads key value]: one token after the other"),
        ("delta_rules_in_other_words", "delta rule in chunked matrix form"),
        ("scans_with_numbers_of_their_calls", "state [heads key value] is kept for every token"),
    ],
)
def test_a_scan_or_a_loop_says_how_its_emitted_text_runs_it(case: str, beginning: str) -> None:
    """Calls of one fn share its text, so their numbers decide: kernels of chunks are imported where reports say so."""
    found = program(str(CASES / f"{case}.arch"))
    sentences = [scan.sentence for scan in build(found).scans]
    assert beginning in {s[: len(beginning)] for s in sentences}
    text = model_code(found, api._target("torch"), 64)["model.py"]
    for kernel, words in (("delta_scan", "delta rule"), ("chunked_scan", "chunked matrix form, a ")):
        assert (f"{kernel}(" in text) == any(s.startswith(words) for s in sentences)


def test_a_checked_spec_does_not_fill_the_screen_of_a_notebook() -> None:
    assert repr(archc.check("griffin:tiny")) == "<model griffin:tiny>"
    assert repr(archc.check("encoder e(vocab = 8) { return E[vocab width = 2](tokens) }")) == "<encoder e>"
