"""Every mistake that a spec can hold: its text, its place, and what archc explain says of it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import archc
from archc.diagnostics import ArchError, Diagnostic, Source
from archc.elaborate import elaborate, load
from archc.elaborate.codes import CODES
from archc.resources import paths, read
from archc.text.codes import CODES as SYNTAX
from archc.text.scan import Outline
from tests.elaborate.cases import CASES, run

SILENT = {
    "block kind misspelt": "unknown_block",
    "option misspelt": "set_of_an_unknown_parameter",
    "width 100, 7 heads": "width_and_heads_do_not_divide",
    "layer index 99 of 4": "layer_99_of_4",
    "index list holds layer 32 of 0 to 31": "layer_32_of_0_to_31",
    "unknown letter in a pattern": "unknown_name",
    "empty pattern": "empty_pattern",
    "window given, but a second switch left off": "unused_parameter",
    "recurrent width not divisible by gate blocks": "gates_do_not_divide_the_recurrence",
    "key heads that do not divide query heads": "key_heads_do_not_divide_heads",
}
"""Mistakes that today's systems accept in silence -> the fixture that shows how they are refused."""


@cache
def mistakes(case: Path) -> ArchError:
    with pytest.raises(ArchError) as caught:
        run(case)
    return caught.value


def shown(case: Path) -> str:
    return case.with_suffix(".txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_the_message_of_a_mistake_is_the_one_beside_it(case: Path) -> None:
    assert str(mistakes(case)) + "\n" == shown(case)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_a_mistake_is_told_in_the_house_style(case: Path) -> None:
    for each in mistakes(case).diagnostics:
        assert not each.message.endswith("."), "no full stop"
        assert each.message[0] == "'" or not each.message[0].isupper(), "lower case"
        assert each.span is None or not each.span.source.name.startswith("std/"), "the user's own line first"


def test_every_code_has_a_case_and_every_case_a_code() -> None:
    found = set(re.findall(r"error\[(E\d+)\]", "".join(map(shown, CASES))))
    assert found - set(SYNTAX) == set(CODES)


def test_every_code_that_is_raised_is_explained() -> None:
    root = Path(archc.__file__).parent
    texts = [p.read_text(encoding="utf-8") for f in ("elaborate", "ops") for p in (root / f).glob("*.py")]
    assert set(re.findall(r'"(E[1-4]\d\d)"', "".join(texts))) == set(CODES)


@pytest.mark.parametrize("mistake", SILENT)
def test_what_others_accept_in_silence_is_refused(mistake: str) -> None:
    assert "error[" in shown(next(c for c in CASES if c.stem == SILENT[mistake]))


# --- the examples of archc explain -------------------------------------------------------------------

ELSEWHERE = {"E120", "E121", "E122", "E123", "E126", "E128"}
"""Codes whose examples are about files and the command line; their fixtures show them."""


IN_A_MODEL = """
model m(width = 8, depth = 4, vocab = 16, heads = 2, hidden = 16, half = 4) {
    block mixer { x = x + swiglu(rms_norm(x), hidden) }
    x = stack(T[vocab width](tokens), depth, [mixer]) * heads * half
    %s
    logits = x @ U[width -> vocab]
}
"""


def codes_of(example: str) -> set[str]:
    try:
        elaborate(load(Source("m.arch", example if example.startswith("model") else IN_A_MODEL % example), None))
    except ArchError as found:
        return {d.code for d in found.diagnostics}
    return set()


@pytest.mark.parametrize("code", [c for c in CODES if c not in ELSEWHERE])
def test_the_wrong_example_of_a_code_has_it_and_the_right_one_is_fine(code: str) -> None:
    assert codes_of(CODES[code].wrong) == {code}
    assert codes_of(CODES[code].right) == set()


# --- anything at all ---------------------------------------------------------------------------------

SHIPPED = [p for p in paths("specs") if "/" not in p]
FOLDER = Path(__file__).parents[2] / "specs"


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(SHIPPED), st.data())
def test_one_wrong_word_anywhere_is_a_diagnostic_in_the_users_text(path: str, data: st.DataObject) -> None:
    text = read("specs", path)
    words = [s for s in Outline(text).scraps if s.kind in ("word", "number")]
    place, other = data.draw(st.sampled_from(words)), data.draw(st.sampled_from(words))
    wrong = Source(path, text[: place.start] + other.text + text[place.end :])
    for each in diagnostics_of(wrong):
        assert each.span is None or not each.span.source.name.startswith("std/")
        assert each.span is None or 0 <= each.span.start <= each.span.end <= len(each.span.source.text)


def diagnostics_of(source: Source) -> tuple[Diagnostic, ...]:
    try:
        elaborate(load(source, FOLDER), size="tiny")
    except ArchError as found:
        return found.diagnostics
    return ()
