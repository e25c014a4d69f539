"""The syntax errors by code, each with a wrong and a right example, as `archc explain` prints them."""

from __future__ import annotations

from typing import NamedTuple


class Code(NamedTuple):
    """What a code stands for; codes are never reused for another mistake."""

    title: str
    explanation: str
    wrong: str
    right: str


CODES: dict[str, Code] = {
    "E001": Code(
        "the file declares nothing",
        "A spec needs at least one fn, model or encoder.",
        "## only a comment",
        "fn double(x) { return 2 * x }",
    ),
    "E002": Code(
        "unknown character",
        "Specs are made of names, numbers, brackets and + - * / ^ @ = < > , : -> .. ' only; names are ASCII.\n"
        "A number begins with a digit; logic is written and, or, not.",
        "y = where(a && m, 1, 0)",
        "y = where(a and m, 1, 0)",
    ),
    "E003": Code(
        "a string without end",
        "A string starts and ends on one line.",
        'import "griffin.arch',
        'import "griffin.arch"',
    ),
    "E004": Code(
        "a bracket is never closed",
        "Every ( [ { needs its ) ] }. The note shows the bracket that is still open.",
        "y = sqrt(mean(x ^ 2, over = dim)",
        "y = sqrt(mean(x ^ 2, over = dim))",
    ),
    "E005": Code(
        "a bracket closes nothing, or something of another kind",
        "A ) ] } closes the last bracket still open, which must be of its kind.",
        "y = pick(x, pair = 0]",
        "y = pick(x, pair = 0)",
    ),
    "E006": Code(
        "a value is missing",
        "Operators, = and , need a value behind them. A line may go on below only if the value does.",
        "y = x +",
        "y = x + 1",
    ),
    "E007": Code(
        "a product before @",
        "@ contracts what stands directly before it, so a product needs parentheses: a * x @ W reads two ways.\n"
        "x @ W * s, x @ A @ B and a * (x @ W) are fine.",
        "y = a * x @ W[width -> hidden]",
        "y = (a * x) @ W[width -> hidden]",
    ),
    "E008": Code(
        "unknown statement",
        "A statement is name = value, or begins with one of a few words.",
        "retrun x",
        "return x",
    ),
    "E009": Code(
        "a statement outside of every body",
        "At the top of a file stand import, fn, model and encoder only; everything else stands between braces.",
        "x = 3",
        "fn three() { return 3 }",
    ),
    "E010": Code(
        "a value without a name",
        "A line that only computes does nothing. Give its value a name or return it.",
        "rms_norm(x)",
        "x = rms_norm(x)",
    ),
    "E011": Code(
        "two values side by side",
        "Between two values stands an operator; between arguments a comma. Only axes stand side by side, in brackets.",
        "y = 2 x",
        "y = 2 * x",
    ),
    "E012": Code(
        "a chain of comparisons",
        "A comparison has two sides; join two of them with and.",
        "m = 0 < a < 1",
        "m = 0 < a and a < 1",
    ),
    "E013": Code(
        "something else was expected",
        "The text stops being a spec at the mark.",
        "fn f(x width) { return x }",
        "fn f(x[width]) { return x }",
    ),
    "E014": Code(
        "expressions nested too deeply",
        "At most 100 expressions stand inside one another; terms of a sum stand side by side.",
        f"y = {'-' * 101}x",
        "y = -x",
    ),
}
