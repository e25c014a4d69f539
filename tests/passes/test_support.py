"""Causality: what is proved, what is refused, and where the refusal points."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest

from archc.diagnostics import ArchError, render
from archc.ir.graph import Graph
from archc.ops.support import Support
from archc.passes.support import check_causal
from archc.specs_index import program

ATTEND = """
    q = x @ W_q[dim = 4]
    k = x @ W_k[dim = 4]
    s = dot(queries(q), keys(k), over = dim)
    {}
    return dot(p, keys(x), over = keys)
"""


@pytest.mark.parametrize(
    "line",
    [
        "p = softmax(s, over = keys, where = causal)",
        "p = softmax(s, over = keys, where = window(3))",
        "p = softmax(s, over = keys, where = near(2) and causal)",
        "p = softmax(s, over = keys, where = prefix(2) and causal or window(3))",
        "p = where(causal, s, 0)",
        "p = relu(where(dilated(2, 3), s, 0)) * exp(s)",
        "p = tanh(softmax(s, over = keys, where = causal)) / 2 + where(window(2), 1, 0)",
        "p = softmax(s, over = keys, where = causal) * softmax(s, over = keys, where = window(3))",
    ],
)
def test_a_mask_that_reaches_the_sum_proves_causality(mixer: Callable[[str], Graph], line: str) -> None:
    check_causal(mixer(ATTEND.format(line)))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("p = softmax(s, over = keys)", "this softmax has no mask"),
        ("p = softmax(s, over = keys, where = everything)", "this mask admits later keys: everything"),
        ("p = softmax(s, over = keys, where = near(2))", "this mask admits later keys: near(2)"),
        ("p = sigmoid(s)", "these pairs have no mask"),
        ("p = softmax(s, over = keys, where = not causal)", "zeros of the mask do not stay zero here"),
        ("p = exp(where(causal, s, 0))", "zeros of the mask do not stay zero here"),
        (
            "p = softmax(s, over = keys, where = queries(pos) >= keys(pos))",
            "this comparison may be true at later keys: say ... and causal",
        ),
        ("p = where(causal, s, 0) / where(causal, s, 0)", "zeros of the mask do not stay zero here"),
        ("p = softmax(s, over = keys, where = causal) + 1", "zeros of the mask do not stay zero here"),
        ("p = softmax(s, over = keys, where = causal or prefix(3))", "this mask admits later keys: prefix(3)"),
    ],
)
def test_a_sum_that_sees_ahead_is_refused_with_its_reason(
    mixer: Callable[[str], Graph], line: str, reason: str
) -> None:
    with pytest.raises(ArchError) as caught:
        check_causal(mixer(ATTEND.format(line)))
    (found,) = caught.value.diagnostics
    assert found.code == "E501"
    assert found.span is not None
    assert found.span.text == "dot(p, keys(x), over = keys)"
    assert reason in [n.message for n in found.notes]
    assert "called from here" in [n.message for n in found.notes]
    assert "where = causal" in render(found)


def test_a_sum_over_time_is_refused_in_a_model_and_allowed_in_an_encoder(model: Callable[[str], Graph]) -> None:
    text = """{} m(width = 4, vocab = 11) {{
        x = E[vocab width](tokens)
        logits = (x + sum(x, over = time)) @ U[width -> vocab]
    }}"""
    check_causal(model(text.format("encoder")))
    with pytest.raises(ArchError) as caught:
        check_causal(model(text.format("model")))
    (found,) = caught.value.diagnostics
    assert found.code == "E502"
    assert found.span is not None
    assert found.span.text == "sum(x, over = time)"


def test_every_sum_that_sees_ahead_is_reported(mixer: Callable[[str], Graph]) -> None:
    with pytest.raises(ArchError) as caught:
        check_causal(mixer("return sum(keys(x), over = keys) + max(keys(x), over = keys)"))
    assert [d.code for d in caught.value.diagnostics] == ["E501", "E501"]


def test_supports_are_intervals_of_distances(mixer: Callable[[str], Graph]) -> None:
    graph = mixer(
        ATTEND.format("p = softmax(s, over = keys, where = near(2) and window(5)) + where(dilated(3, 4), 1, 0)")
    )
    found = {v.label or v.op: s for v, s in check_causal(graph).items()}
    assert found["near(2)"] == Support(3, 2)
    assert found["and"] == Support(3, 0)
    assert found["dilated(3, 4)"] == Support(9, 0)
    assert found["p"] == Support(9, 0)
    assert found["s"] == Support(inf, inf)


@pytest.mark.parametrize(
    "line",
    [
        "p = softmax(s, over = keys, where = everything) * causal",
        "p = softmax(softmax(s, over = keys, where = near(1)), over = keys, where = causal)",
    ],
)
def test_the_denominator_of_a_softmax_must_be_causal_itself(mixer: Callable[[str], Graph], line: str) -> None:
    with pytest.raises(ArchError) as caught:
        check_causal(mixer(ATTEND.format(line)))
    (found,) = caught.value.diagnostics
    assert found.message == "not causal: this softmax over keys can see later tokens"
    assert found.span is not None
    assert found.span.text.startswith("softmax(s, over = keys, where = ")
    assert any(n.message.startswith("this mask admits later keys") for n in found.notes)


def test_a_mask_that_the_library_was_given_is_shown_in_the_user_s_own_lines() -> None:
    spec = """model m(width = 8, vocab = 11) {
    x = E[vocab width](tokens)
    x = attention(x, 2, mask = everything)
    logits = x @ U[width -> vocab]
}"""
    with pytest.raises(ArchError) as caught:
        program(spec)
    (found,) = caught.value.diagnostics
    assert found.span is not None
    assert found.span.text == "attention(x, 2, mask = everything)"
    assert [note.message for note in found.notes] == [
        "this mask admits later keys: everything",
        "in the standard library",
    ]
