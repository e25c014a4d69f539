"""Loops, outputs, inputs, several values, precision: what the other statements mean."""

from __future__ import annotations

from archc.ir.graph import Kind, Value
from tests.elaborate.specs import label, mistakes, model, program, shapes, values


def loops(body: str) -> Value:
    (loop,) = [v for v in values(model(body)) if v.op == "loop"]
    return loop


def test_after_a_loop_its_states_are_values_per_token() -> None:
    found = model("loop h[width] = 0, c[width] {\nc = c + x\nh = tanh(c + h @ W[width])\n}\nx = x + h")
    assert [v.label for v in found.graph.main.values if v.op == "loop_out"] == ["h", "c"]
    assert shapes(found) == {"W": {"width": 8, "width'": 8}}


def test_a_loop_hands_on_only_what_is_read_later() -> None:
    body = "loop h[width] = 0 {\na = h + x\nb = a * 2\nh = b\n}\n"
    assert len(loops(body + "x = h").attrs["body"].results) == 1
    assert len(loops(body + "x = h + b").attrs["body"].results) == 2


def test_a_state_starts_from_a_weight() -> None:
    loop = loops("loop h[width] = start[width] {\nh = h + x\n}\nx = h")
    assert isinstance(loop.args[0], Value)
    assert loop.args[0].kind is Kind.WEIGHT


def test_a_model_returns_several_outputs_per_token_or_sequence() -> None:
    found = program(
        "encoder m(width = 8, vocab = 16) {\ninput segment\n"
        "x = E[vocab width](tokens) + S[kinds = 2 width](segment)\n"
        "whole = mean(x, over = time)\nreturn x, whole\n}\n"
    )
    assert found.graph.outputs == ("x", "whole")
    assert found.graph.inputs == ("tokens", "segment")
    assert [v.kind for v in found.graph.main.results] == [Kind.TOKEN, Kind.SEQ]


def test_a_fn_gives_back_several_values() -> None:
    found = model("a, b = both(x)\nx = a + b", more="fn both(x) { return tanh(x), sigmoid(x) }")
    assert (label(found, "a").op, label(found, "b").op) == ("tanh", "sigmoid")


def test_a_block_may_ignore_a_name_that_begins_with_an_underscore() -> None:
    assert not mistakes(
        "model m(width = 8, vocab = 16) {\n_, x = both(E[vocab width](tokens))\nlogits = x @ U[width -> vocab]\n}\n"
        "fn both(x) { return tanh(x), sigmoid(x) }\n"
    )


def test_fp32_computes_what_stands_inside_in_single_precision() -> None:
    found = model("a = fp32(-3 * softplus(g[width]) * x)\nx = x + exp(a)")
    assert label(found, "a").type.wide
    assert all(v.type.wide for v in values(found) if v.op in ("mul", "softplus"))


def test_an_island_ends_where_its_fn_returns() -> None:
    found = model("y = island(x)\nx = x + y", more="fn island(x) { return fp32(exp(x)) }")
    assert not label(found, "y").type.wide


def test_statistics_are_wide() -> None:
    means = [v for v in values(model("x = rms_norm(x)")) if v.op == "reduce"]
    assert all(v.type.wide for v in means)


def test_pos_is_seen_everywhere() -> None:
    assert not mistakes(
        "model m(width = 8, vocab = 16) {\nlogits = placed(E[vocab width](tokens)) @ U[width -> vocab]\n}\n"
        "fn placed(x[width]) { return x + P[length = 4 width](pos) }\n"
    )


def test_before_a_parenthesis_only_callables_are_looked_up() -> None:
    assert not mistakes(
        "model m(width = 8, vocab = 16, window = 4) {\nx = E[vocab width](tokens)\n"
        "logits = attention(x, 2, mask = window(window)) @ U[width -> vocab]\n}\n"
    )


def test_one_wrong_line_is_told_once_however_often_its_fn_is_called() -> None:
    found = mistakes(
        "model m(width = 8, vocab = 16) {\nx = E[vocab width](tokens)\n"
        "logits = (bad(x) + bad(x) + bad(2 * x)) @ U[width -> vocab]\n}\nfn bad(x) { return x * oops }\n"
    )
    assert [d.code for d in found] == ["E101"]
