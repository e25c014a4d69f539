"""Stacks: which block runs at which layer, what blocks know, and how often they are elaborated."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archc.elaborate import Program, Stack
from tests.elaborate.specs import model, program, shapes, values, weights

BLOCKS = "block a { x = x + rms_norm(x) }\nblock b { x = x * 2 }\nblock c(n = 1) { x = x * n }\n"


def stack_of(found: Program) -> Stack:
    (stack,) = found.root.stacks.values()
    return stack


def pattern(entries: str, depth: int) -> str:
    unused = "".join(f"y = stack(x, 1, [{n}])\nx = x + y\n" for n in "abc")
    found = model(f"{BLOCKS}{unused}x = stack(x, {depth}, {entries})")
    return "".join(layer.block for layer in list(found.root.stacks.values())[-1].layers)


@pytest.mark.parametrize(
    ("entries", "depth", "layers"),
    [
        ("[a, a, b]", 7, "aabaaba"),  # a partial period is cut
        ("[a * 3, b]", 8, "aaabaaab"),
        ("[a * 0, b]", 2, "bb"),
        ("[a, at(0, 3): b]", 5, "baaba"),
        ("[a, first(2): b]", 4, "bbaa"),
        ("[a, last(1): b, first(1): c]", 4, "caab"),
        ("[a, last(0): b]", 2, "aa"),
        ("[c(n = 2), c]", 3, "ccc"),
    ],
)
def test_the_list_is_repeated_cut_and_overridden(entries: str, depth: int, layers: str) -> None:
    assert pattern(entries, depth) == layers


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=5), st.integers(1, 12))
def test_layer_i_runs_entry_i_modulo_the_period(entries: list[str], depth: int) -> None:
    expected = "".join(entries[i % len(entries)] for i in range(depth))
    assert pattern(f"[{', '.join(entries)}]", depth) == expected


def test_equal_blocks_are_elaborated_once_and_other_arguments_again() -> None:
    found = model("block layer(n) { x = x * n }\nx = stack(x, 6, [layer(2), layer(n = 2), layer(3)])")
    stack = stack_of(found)
    assert len(stack.distinct) == 2
    assert stack.calls[0] is stack.calls[1] is stack.calls[3]
    assert stack.period == 3


def test_a_block_that_no_layer_runs_at_this_size_still_reads_what_it_reads() -> None:
    found = model("n = 3\nblock a { x = x * n }\nblock b { x = x * 2 }\nx = stack(x, 2, [b * 2, a])")
    assert [layer.block for layer in stack_of(found).layers] == ["b", "b"]
    assert stack_of(found).period == 1  # what is cut off does not count


def test_masks_with_equal_windows_are_equal_arguments() -> None:
    block = "block layer(mask) { x = x + attention(x, 2, mask = mask) }\n"
    found = model(f"{block}x = stack(x, 3, [layer(window(4)), layer(mask = window(n)), layer(causal)])", "n = 4")
    assert len(stack_of(found).distinct) == 2


def test_a_block_knows_its_layer_and_is_then_elaborated_for_each() -> None:
    found = model("block layer_scaled { x = x * (layer + 1) }\nx = stack(x, 3, [layer_scaled])")
    factors = [v.args[1] for v in values(found) if v.op == "mul"]
    assert factors == [1, 2, 3]
    assert len(stack_of(found).distinct) == 3


def test_a_block_sees_the_numbers_and_values_of_its_model() -> None:
    found = model("n = 3\nside = x @ W[width]\nblock layer { x = x * n + side }\nx = stack(x, 2, [layer])")
    assert "W" in weights(found)


def test_several_streams_go_through_a_stack() -> None:
    found = model(
        "v = x @ W[key]\nblock layer {\nx = x + v @ A[key -> width]\nv = v + x @ B[width -> key]\n}\n"
        "x, v = stack(x, v, 2, [layer])\nx = x * sum(v)",
        "key = 4",
    )
    assert stack_of(found).streams == ("x", "v")
    assert [p.label for p in stack_of(found).layers[0].region.params] == ["x", "v"]
    assert shapes(found)["layers.1.B"] == {"width": 8, "key": 4}


def test_arguments_of_a_block_are_evaluated_where_the_stack_stands() -> None:
    found = model("block layer(n = width, k = 2 * n) { x = x * n * k }\nx = stack(x, 2, [layer, layer(n = 3)])")
    assert {v.args[1] for v in values(found) if v.op == "mul"} == {8, 16, 3, 6}


def test_depth_is_any_whole_number() -> None:
    text = (
        "model m(width = 8, vocab = 16, depth = 2) {\nblock layer { x = x + rms_norm(x) }\n"
        "x = stack(E[vocab width](tokens), depth, [layer])\nlogits = x @ U[width -> vocab]\n}\n"
    )
    found = program(text, settings={"depth": Fraction(400)})
    assert len(stack_of(found).layers) == 400
    assert len(stack_of(found).distinct) == 1
