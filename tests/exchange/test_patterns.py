"""Patterns of layers in letters and words become stacks, or what is wrong with them is pointed at."""

from __future__ import annotations

from typing import Any

import pytest

import archc
from archc.diagnostics import ArchError
from archc.specs_index import program


def test_a_letter_that_is_none_is_pointed_at() -> None:
    with pytest.raises(ArchError) as caught:
        archc.import_pattern("M-x*m")
    assert [(d.code, d.span and d.span.column) for d in caught.value.diagnostics] == [("E715", 3), ("E715", 5)]
    assert "no layer is written 'm'; did you mean 'M'?" in str(caught.value)


@pytest.mark.parametrize("pattern", ["", " | "])
def test_a_pattern_without_layers_is_refused(pattern: str) -> None:
    with pytest.raises(ArchError, match="E715"):
        archc.import_pattern(pattern)


def test_a_pattern_becomes_a_stack() -> None:
    text = archc.import_pattern("M-M*-|M-M*-|M")
    assert "stack(x, depth, [mamba, mlp, mamba, attention, mlp])" in text
    assert [layer.block for layer in layers(text)] == [
        {"M": "mamba", "-": "mlp", "*": "attention"}[c] for c in "M-M*-M-M*-M"
    ]


@pytest.mark.parametrize("pattern", ["recurrent recurrent attention", '["recurrent", "recurrent", "attention"]'])
def test_words_of_a_list_become_the_stack_of_the_spec_that_has_them(pattern: str) -> None:
    text = archc.import_pattern(pattern)
    assert "model recurrentgemma(" in text
    assert [layer.block for layer in layers(text)] == ["recurrent", "recurrent", "local"]
    assert [layer.block for layer in layers(archc.import_pattern("mamba mlp"))] == ["mamba", "mlp"]


def test_a_word_that_is_none_is_pointed_at() -> None:
    with pytest.raises(ArchError) as caught:
        archc.import_pattern("recurrent atention moe")
    assert [(d.code, d.span and d.span.column) for d in caught.value.diagnostics] == [("E715", 11), ("E715", 20)]
    assert "no layer is called 'atention'; did you mean 'attention'?" in str(caught.value)


def test_kinds_of_layers_that_a_pattern_has_not_are_no_part_of_the_spec() -> None:
    text = archc.import_pattern("MMM")
    assert "stack(x, depth, [mamba])" in text
    assert "attention" not in text.split("{", 1)[1]
    assert "heads" not in text.split("{", 1)[0]
    assert len(layers(text)) == 3


def layers(text: str) -> Any:
    (stack,) = (value for value in program(text).graph.main.values if value.op == "stack")
    return stack.attrs["layers"]
