"""Every syntax error: its text, its place, what it hides."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archc import resources
from archc.diagnostics import ArchError, Source
from archc.text.codes import CODES
from archc.text.parse import parse
from archc.text.recover import MOST, syntax_errors
from archc.text.scan import Outline

HERE = Path(__file__).parent
CASES = sorted((HERE / "errors").glob("*.arch"))


def errors(text: str, name: str = "spec.arch") -> ArchError:
    with pytest.raises(ArchError) as caught:
        parse(Source(name, text))
    return caught.value


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_the_message_of_a_mistake_is_the_one_beside_it(case: Path) -> None:
    found = errors(case.read_text(encoding="utf-8"), case.name)
    assert str(found) + "\n" == case.with_suffix(".txt").read_text(encoding="utf-8")


def test_every_code_has_a_case() -> None:
    shown = "".join(case.with_suffix(".txt").read_text(encoding="utf-8") for case in CASES)
    assert [code for code in CODES if f"error[{code}]" not in shown] == []


def in_a_body(example: str) -> str:
    return example if example.startswith(("fn", "import", "##")) else f"fn f(x, m) {{\n    {example}\n}}\n"


@pytest.mark.parametrize("code", CODES)
def test_the_wrong_example_of_a_code_has_it_and_the_right_one_parses(code: str) -> None:
    wrong, right = CODES[code].wrong, in_a_body(CODES[code].right)
    assert [d.code for d in errors(wrong if code == "E009" else in_a_body(wrong)).diagnostics] == [code]
    parse(Source("right.arch", right + ("\nfn f(x) { return x }" if right.startswith("import") else "")))


def test_each_of_many_mistakes_is_told_once_and_in_order() -> None:
    lines = [f"    y{i} = = {i}" if i % 2 else f"    y{i} = {i}" for i in range(30)]
    found = errors("fn f(x) {\n" + "\n".join(lines) + "\n}\n")
    assert [d.span.line for d in found.diagnostics if d.span] == list(range(3, 32, 2))


def test_the_number_of_messages_is_bounded() -> None:
    body = "\n".join("    y = = 1" for _ in range(3 * MOST))
    assert len(errors(f"fn f(x) {{\n{body}\n}}\n").diagnostics) == MOST


SPEC = resources.read("specs", "griffin.arch")
SCRAPS = Outline(SPEC).scraps[:-1]


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, len(SCRAPS) - 1), st.sampled_from([*"(){}[]=+@,:$\"'", "x", "3", "->", "return", "\n", "model", ""])
)
def test_one_wrong_word_anywhere_gives_few_messages_inside_the_text(i: int, word: str) -> None:
    text = SPEC[: SCRAPS[i].start] + word + SPEC[SCRAPS[i].end :]
    found = syntax_errors(Source("spec.arch", text))
    assert len(found) <= 5
    assert all(d.span and 0 <= d.span.start <= d.span.end <= len(text) for d in found)
