"""The formatter changes the layout and nothing else, once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings

from archc import resources
from archc.diagnostics import Source
from archc.text.format import format
from archc.text.layout import WIDTH
from archc.text.parse import parse
from tests.text.texts import shape, texts

CASES = sorted((Path(__file__).parent / "format").glob("*.arch"))
SPECS = resources.paths("specs")


def formatted(text: str) -> str:
    return format(Source("spec.arch", text))


def check_laws(text: str) -> None:
    once = formatted(text)
    assert shape(parse(Source("once.arch", once))) == shape(parse(Source("spec.arch", text)))
    assert formatted(once) == once
    assert comments(once) == comments(text)
    assert not re.search(r"[ \t]\n|\n\n\n|\A\n|\n\n\Z", once)


def comments(text: str) -> list[str]:
    return [found.rstrip() for found in re.findall(r'"[^"\n]*"|(#[^\n]*)', text) if found]


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_a_text_is_laid_out_as_the_file_beside_it(case: Path) -> None:
    text = case.read_text(encoding="utf-8")
    assert formatted(text) == case.with_suffix(".out").read_text(encoding="utf-8")
    check_laws(text)


@pytest.mark.parametrize("path", SPECS)
def test_formatting_a_spec_keeps_its_tree_and_comments_and_is_idempotent(path: str) -> None:
    text = resources.read("specs", path)
    check_laws(text)
    assert all(len(line) <= WIDTH for line in formatted(text).splitlines() if "#" not in line)


@settings(deadline=None, max_examples=40)
@given(texts())
def test_formatting_any_text_keeps_its_tree_and_comments_and_is_idempotent(text: str) -> None:
    check_laws(text)


def test_line_ends_of_windows_become_plain_ones() -> None:
    assert formatted("fn f(x) {\r\n    # why\r\n    return x\r\n}\r\n") == "fn f(x) {\n    # why\n    return x\n}\n"
