"""Numbers: exact, with a history; sizes and settings; what a size may be."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archc.elaborate.numbers import ARITHMETIC, FUNCTIONS, Num
from tests.elaborate.specs import mistakes, model, program, shapes

TEXT = """
model m(width = 8, vocab = 16, hidden = 4 * width) {
    x = E[vocab width](tokens)
    logits = (x + swiglu(x, hidden)) @ U[width -> vocab]
    size small: width = 4
    size wide: width = 16, hidden = 20
}
"""


def hidden(size: str | None = None, **settings: int) -> int:
    found = program(TEXT, size, {n: Fraction(v) for n, v in settings.items()})
    return shapes(found)["swiglu.W_up"]["hidden"]


def test_a_parameter_comes_from_set_else_from_the_size_else_from_its_default() -> None:
    assert hidden() == 32
    assert hidden("small") == 16, "a default follows what the size sets"
    assert hidden("wide") == 20
    assert hidden("wide", hidden=24) == 24
    assert hidden(width=2) == 8


@given(st.integers(1, 10**12), st.integers(1, 10**6))
def test_numbers_are_exact(a: int, b: int) -> None:
    quotient = ARITHMETIC["/"](Fraction(a), Fraction(b))
    assert ARITHMETIC["*"](quotient, Fraction(b)) == a
    assert FUNCTIONS["sqrt"](Fraction(a * a, b * b)) == Fraction(a, b)
    assert ARITHMETIC["^"](Fraction(a), Fraction(-2)) == Fraction(1, a * a)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("ceil(7 / 2)", 4),
        ("floor(7 / 2)", 3),
        ("sqrt(16)", 4),
        ("2 ^ 3", 8),
        ("max(2, 3)", 3),
        ("1e1", 10),
        ("6 / 4 * 2", 3),
    ],
)
def test_what_comes_to_a_whole_number_is_a_size(text: str, size: int) -> None:
    assert shapes(model(f"y = x @ W[inner = {text}]\nx = x * sum(y)"))["W"]["inner"] == size


def test_a_number_says_where_it_came_from() -> None:
    found = program(TEXT, "small", {"vocab": Fraction(7)})
    roots = {name: [(r.name, r.value, r.giver) for r in number.roots] for name, number in found.settings.items()}
    assert roots["vocab"] == [("vocab", "7", "--set")]
    assert roots["width"] == [("width", "4", "size small")]
    assert roots["hidden"] == [("hidden", "16", "its default"), ("width", "4", "size small")]


def test_a_size_that_came_through_an_axis_still_says_where_it_came_from() -> None:
    (found,) = mistakes(
        "model m(width = 12, vocab = 16) {\nlogits = heads_of(E[vocab width](tokens), 5)\n}\n"
        "fn heads_of(x[rows], heads) {\nside = rows / heads\nreturn sum(split(x, rows -> heads side))\n}\n"
    )
    assert [n.message for n in found.notes][:1] == ["width = 12, from its default"]


def test_large_sums_are_walked_without_recursion() -> None:
    terms = " + ".join(["x"] * 3000)
    assert model(f"x = {terms}").graph.outputs == ("logits",)


def test_a_number_that_is_too_large_is_refused_not_crashed_on() -> None:
    codes = [d.code for d in mistakes("model m(w = 8, v = 16) {\nlogits = E[v w](tokens) * 10.5 ^ 10 ^ 9\n}")]
    assert codes == ["E203"]


def test_numbers_print_as_they_are_written() -> None:
    assert [str(Num(Fraction(v))) for v in ("256000", "1/3", "-2")] == ["256_000", "1/3", "-2"]
