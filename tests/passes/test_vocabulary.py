"""What a model says of tokens: every shipped spec gives logits, a body, however wide, gives none."""

from __future__ import annotations

import pytest

from archc.passes.vocabulary import gives_logits, vocabulary
from archc.specs_index import program, shipped

BODY = "encoder body(width = 8, vocab = 11) {{ x = E[vocab width](tokens)\nreturn {} }}"


@pytest.mark.parametrize("spec", shipped())
def test_every_shipped_spec_gives_logits_for_its_tokens(spec: str) -> None:
    graph = program(f"{spec}:tiny").graph
    assert gives_logits(graph)
    assert vocabulary(graph) == graph.main.results[0].type.sizes["vocab"]


@pytest.mark.parametrize(
    ("output", "logits"),
    [
        ("x @ U[width -> vocab]", True),
        ("x @ U[width -> words = 11]", True),
        ("x", False),
        ("x @ U[width -> answers = 2]", False),
        ("x @ U[width -> heads = 1 vocab]", False),
        ("mean(x, over = time) @ U[width -> vocab]", False),
        ("x @ U[width -> vocab], x", True),
        ("x, x @ U[width -> vocab]", False),
    ],
)
def test_logits_are_one_number_for_each_token(output: str, logits: bool) -> None:
    assert gives_logits(program(BODY.format(output)).graph) is logits


def test_a_body_as_wide_as_its_vocabulary_gives_none() -> None:
    assert not gives_logits(program("encoder body(width = 11, vocab = 11) { return E[vocab width](tokens) }").graph)
