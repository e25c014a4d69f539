"""Axes: joined by name, renamed at the border of a fn and back, fresh by primes; what renaming may not change."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from archc.elaborate import Program
from archc.ir.graph import Kind, Value
from archc.resources import read
from tests.elaborate.specs import label, model, program, shapes, values


def test_axes_join_by_name_and_others_make_an_outer_product() -> None:
    found = model("y = x @ W[inner]\nz = x @ V[state]\na = y * z\nb = a * y\nx = x * sum(b)", "inner = 3, state = 5")
    assert label(found, "a").names == ("inner", "state")
    assert label(found, "b").names == ("inner", "state")


def test_a_contraction_without_an_arrow_takes_all_axes() -> None:
    found = model("y = split(x, width -> heads dim)\nx = y @ W[width]", "heads = 2, dim = 4")
    assert shapes(found) == {"W": {"heads": 2, "dim": 4, "width": 8}}


def test_an_axis_on_both_sides_is_kept_and_a_prime_makes_it_fresh() -> None:
    found = model(
        "u = split(x, width -> gates side)\nr = u @ W[gates side -> gates side']\nx = x * sum(u * r)",
        "gates = 2, side = 4",
    )
    assert shapes(found)["W"] == {"gates": 2, "side": 4, "side'": 4}
    assert label(found, "r").names == ("gates", "side"), "the prime drops"


@pytest.mark.parametrize("square", ["x @ W[width]", "x @ W[width']", "x @ W[width -> width']"])
def test_a_square_matrix_gives_back_the_axis(square: str) -> None:
    found = model(f"x = {square}")
    assert shapes(found) == {"W": {"width": 8, "width'": 8}}
    assert label(found, "x").names == ("width",)


def test_an_axis_in_scope_is_a_number() -> None:
    assert shapes(model("x = x + swiglu(x, 3 * width)"))["swiglu.W_up"] == {"width": 8, "hidden": 24}


def test_a_size_stands_in_place() -> None:
    found = model("x = x + x @ W[hidden = 2 * width] @ V[hidden = 16 -> width]")
    assert shapes(found) == {"W": {"width": 8, "hidden": 16}, "V": {"hidden": 16, "width": 8}}


def test_a_fn_takes_the_callers_axes_under_its_own_names_and_gives_them_back() -> None:
    found = model("k = rotary(x @ W[heads key])\nx = x * sum(k)", "heads = 2, key = 4")
    assert label(found, "k").names == ("heads", "key")


def test_an_axis_that_a_fn_has_no_name_for_is_not_taken_for_one_of_its_own() -> None:
    """rotary makes axes `half` and `still`, and calls the last axis `dim`: none of them is the caller's."""
    found = model("k = rotary(x @ W[dim half still key])\nx = x * sum(k)", "dim = 2, half = 3, still = 5, key = 4")
    assert label(found, "k").type.sizes == {"dim": 2, "half": 3, "still": 5, "key": 4}


def test_the_axes_of_all_arguments_are_renamed_alike() -> None:
    fn = "fn add(a[rows], b) { return sum(a * b, over = rows) }"
    assert label(model("s = add(x, 2 * x)\nx = x * s", more=fn), "s").names == ()


def test_an_axis_of_the_caller_that_bears_a_name_of_the_pattern_is_set_aside() -> None:
    fn = "fn outer(a[rows], b) { return sum(a * b, over = rows) }"
    found = model("s = outer(x @ W[columns], x @ V[rows])\nx = x * sum(s)", "columns = 3, rows = 5", fn)
    assert label(found, "s").type.sizes == {"rows": 5}


def test_lists_of_axes_are_renamed_with_the_values() -> None:
    fn = "fn spread(x[.. dim], over = dim) { return sum(x, over = over) }"
    found = model(
        "y = split(x, width -> heads key)\ns = spread(y, over = [heads key])\nx = x * s", "heads = 2, key = 4", fn
    )
    assert label(found, "s").names == ()


def test_a_fn_may_name_the_axes_of_a_list_it_is_given() -> None:
    found = model(
        "y = x @ W[heads dim]\ny = rms_norm(y, over = dim, per = [heads dim])\nx = x * sum(y)", "heads = 2, dim = 4"
    )
    assert shapes(found)["rms_norm.scale"] == {"heads": 2, "dim": 4}


def test_tokens_numbers_and_weights_are_promoted_but_a_token_is_lifted_by_hand() -> None:
    found = model(
        "s = dot(queries(x), keys(x), over = width) * 2 + g[]\n"
        "p = softmax(s, over = keys, where = causal)\nx = x + dot(p, keys(x), over = keys)"
    )
    assert label(found, "s").kind is Kind.PAIR
    assert label(found, "x").kind is Kind.TOKEN


# --- laws --------------------------------------------------------------------------------------------

NAMES = ("dim", "half", "still", "pair", "group", "rank", "key", "hidden", "x_axis", "rows", "scale", "d")
AXES = {
    "griffin": ("width", "vocab", "rnn", "gates", "heads", "side", "dim", "taps"),
    "llama": ("width", "vocab", "heads", "kv", "hidden"),
    "mamba2": ("width", "vocab", "head", "state", "groups", "heads", "dim", "inner", "taps"),
    "dcformer": ("width", "vocab", "heads", "hidden", "rank", "dim"),
    "rwkv6": ("width", "vocab", "heads", "key", "value", "five", "rank", "hidden"),
}


def structure(found: Program) -> list[tuple[str, tuple[int, ...], Kind, str]]:
    """All that a graph is but for the names of its axes."""

    def seen(value: Value) -> tuple[str, tuple[int, ...], Kind, str]:
        return (value.op, tuple(a.size for a in value.type.axes), value.kind, str(value.attrs.get("path", "")))

    return [seen(v) for v in values(found) if v.op != "rename"]


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(sorted(AXES)), st.data())
def test_renaming_an_axis_everywhere_in_a_spec_changes_nothing_else(name: str, data: st.DataObject) -> None:
    text = read("specs", f"{name}.arch")
    old, new = data.draw(st.sampled_from(AXES[name])), data.draw(st.sampled_from(NAMES))
    assume(not re.search(rf"\b{new}\b", text))
    assume(f"{old} = {old}" not in text)
    renamed = re.sub(rf"\b{old}\b", new, text)
    assert structure(program(renamed, "tiny")) == structure(program(text, "tiny"))
