"""Which loops are a delta rule, read from how the state enters what the body computes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from archc.diagnostics import Source
from archc.elaborate import elaborate, load
from archc.passes.delta import DeltaScan, delta_scans
from archc.specs_index import program

CASES = Path(__file__).parents[1] / "parity" / "cases"
TEXT = """
model m(width = 8, vocab = 11, heads = 2, key = 3, value = 4) {{
    x = E[vocab width](tokens)
{tokens}
    loop S[heads key value] = {start} {{
        {body}
    }}
    x = {read} @ W_o[heads value -> width]
    logits = x @ U[width -> vocab]
}}
"""
TOKENS = {
    "q": "x @ W_q[heads key]",
    "k": "x @ W_k[heads key]",
    "v": "x @ W_v[heads value]",
    "a": "sigmoid(x @ W_a[heads])",
    "g": "sigmoid(x @ W_g[heads value])",
    "f": "sigmoid(x @ W_f[heads key])",
}
READ = "dot(S, q, over = key)"


def rules(body: str, start: str = "0", read: str = READ) -> list[DeltaScan]:
    used = set(re.findall(r"[a-z]\w*", f"{body} {read}"))
    tokens = "\n".join(f"    {name} = {made}" for name, made in TOKENS.items() if name in used)
    text = TEXT.format(body=body.replace("; ", "\n        "), start=start, read=read, tokens=tokens)
    return list(delta_scans(elaborate(load(Source("m.arch", text), None)).graph).values())


def shown(rule: DeltaScan) -> tuple[list[str], list[str], list[str]]:
    """The names of keys, values and corrections, numbers as they are."""
    sides = (rule.factors["key"], rule.factors["value"], rule.correction)
    keys, values, corrections = ([str(getattr(f.operand, "label", f.operand)) for f in side] for side in sides)
    return keys, values, corrections


@pytest.mark.parametrize(
    ("body", "keys", "values", "correction", "decayed"),
    [
        ("S = S + k * (v - dot(S, k, over = key))", ["k"], ["v"], ["k"], True),
        ("S = a * S + k * (v - dot(a * S, q, over = key))", ["k"], ["v"], ["q"], True),
        ("S = a * S + k * (v - dot(S, k, over = key))", ["k"], ["v"], ["k"], False),
        ("old = a * dot(S, k, over = key); S = a * S + k * (2 * v - old / 4)", ["k"], ["2", "v"], ["0.25", "k"], True),
        ("S = S - k * dot(S, k, over = key) * a + v * k", ["k"], ["v"], ["a", "k"], True),
        ("S = 0.5 * S + k * (dot(-S, k, over = key) + v)", ["k"], ["v"], ["k"], False),
    ],
)  # fmt: skip
def test_a_rule_in_any_words(
    body: str, keys: list[str], values: list[str], correction: list[str], decayed: bool
) -> None:
    (rule,) = rules(body)
    assert (rule.heads, rule.key, rule.value) == (("heads",), ("key",), ("value",))
    assert (*shown(rule), rule.decayed) == (keys, values, correction, decayed)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("S = a * S + k * v", "nothing is corrected: that is a scan"),
        ("S = f * S + k * (v - dot(S, k, over = key))", "a decay per key"),
        ("S = a * S + k * (v - g * dot(S, k, over = key))", "another correction for each value"),
        ("S = a * S + q * v - k * dot(S, k, over = key)", "what is added has another key than what goes"),
        ("S = a * S + k * (v - tanh(dot(S, k, over = key)))", "a correction that is not linear"),
        ("S = a * S + k * v - k * dot(S, k, over = key) - q * dot(S, q, over = key)", "two corrections"),
        ("S = a * S + k * (v - dot(S, g, over = value))", "read over the values"),
    ],
)
def test_other_loops_are_none(body: str, why: str) -> None:
    assert not rules(body), why


@pytest.mark.parametrize(
    ("start", "read"),
    [("1", READ), ("0", "(dot(S, q, over = key) + dot(S, k, over = key))"), ("0", "tanh(dot(tanh(S), q, over = key))")],
    ids=["a state that starts from one", "two read-outs", "a state that is read otherwise"],
)
def test_what_is_around_the_loop_must_fit(start: str, read: str) -> None:
    assert not rules("S = a * S + k * (v - dot(S, k, over = key))", start, read)


def test_the_case_of_parity_holds_three() -> None:
    found = delta_scans(program(str(CASES / "delta_rules_in_other_words.arch")).graph)
    assert [rule.decayed for rule in found.values()] == [True, False, True]
