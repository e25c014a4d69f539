"""Instances of weights: how they are named, which calls share them, where they belong; and their initial values."""

from __future__ import annotations

import numpy as np
import pytest

from archc.ir.graph import Region, captures
from tests.elaborate.specs import label, layered, model, program, shapes, values, weights

MLP = "swiglu(rms_norm(x), 16)"


def test_calls_of_one_fn_are_numbered_in_the_order_of_the_text() -> None:
    found = model("x = rms_norm(x + rms_norm(2 * x)) + rms_norm(x)")
    assert list(weights(found)) == ["rms_norm_2.scale", "rms_norm.scale", "rms_norm_3.scale"]


def test_a_label_names_an_instance_and_does_not_count() -> None:
    found = model("x = rms_norm(x)\nx = final: rms_norm(x)\nx = rms_norm(x)")
    assert list(weights(found)) == ["rms_norm.scale", "final.scale", "rms_norm_2.scale"]


def test_weights_of_a_layer_are_named_below_its_number() -> None:
    found = layered(f"layer {{ x = x + mix: {MLP} }}", "stack(x, 2, [layer])")
    assert [n for n in weights(found) if n.endswith("W_up")] == ["layers.0.mix.W_up", "layers.1.mix.W_up"]


def test_a_label_names_a_stack() -> None:
    found = layered(f"layer {{ x = x + {MLP} }}", "tower: stack(x, 1, [layer])")
    assert "tower.0.rms_norm.scale" in weights(found)


def test_a_second_stack_has_a_number() -> None:
    found = layered(f"layer {{ x = x + {MLP} }}", "stack(stack(x, 1, [layer]), 1, [layer])")
    assert {n.split(".")[0] for n in weights(found)} == {"layers", "layers_2"}


def test_a_name_that_python_keeps_for_itself_gets_an_underscore() -> None:
    assert list(weights(model("x = x * lambda[width]"))) == ["lambda_"]


def test_tied_mentions_are_one_weight_stored_as_first_written() -> None:
    found = model("x = x @ E[width -> vocab] @ W[vocab -> width]\ntied E")
    assert list(found.graph.named_weights()) == ["E", "W", "U"]
    assert found.graph.named_weights()["E"].type.names == ("vocab", "width")


def test_a_frozen_weight_is_a_buffer() -> None:
    found = model("x = x * g[width] * h[width]\nfrozen g")
    assert {n: w.frozen for n, w in weights(found).items()} == {"g": True, "h": False}


def test_a_shared_fn_has_one_instance_and_a_state_per_call() -> None:
    fn = "fn recall(x[width], rate) { return scan(decay = rate, input = x @ W[width]) }"
    found = model("shared r = recall(rate = 0.5)\nx = x + r(x) + r(2 * x)", more=fn)
    assert shapes(found) == {"r.W": {"width": 8, "width'": 8}}
    scans = [v for v in values(found) if v.op == "scan"]
    assert len({v.attrs["state"] for v in scans}) == 2


def test_nested_calls_of_a_shared_fn_are_shared_too() -> None:
    fn = "fn twice(x) { return rms_norm(rms_norm(x)) }"
    found = model("shared f = twice()\nx = f(x) + f(x)", more=fn)
    assert list(weights(found)) == ["f.rms_norm_2.scale", "f.rms_norm.scale"]


def test_a_shared_fn_called_in_blocks_keeps_its_weights_in_the_model() -> None:
    """One matrix for all layers, and every block reads that very value."""
    found = model(
        "shared f = swiglu(hidden = 16)\n"
        "block one { x = x + f(rms_norm(x)) }\nblock two { x = x + f(2 * x) }\nx = stack(x, 4, [one, two])"
    )
    assert [n for n in weights(found) if n.endswith("W_up")] == ["f.W_up"]
    (matrix,) = [v for v in values(found) if v.attrs.get("path") == "f.W_up"]
    stack = next(v for v in found.graph.main.values if v.op == "stack")
    regions: set[Region] = {layer.region for layer in stack.attrs["layers"]}
    assert len(regions) == 2
    assert all(matrix in captures(region) for region in regions)
    assert found.graph.main.values.index(matrix) < found.graph.main.values.index(stack)


def test_a_shared_fn_is_passed_to_blocks() -> None:
    found = model(
        "shared f = swiglu(hidden = 16)\nblock layer(mix) { x = x + mix(rms_norm(x)) }\n"
        "x = stack(x, 2, [layer(mix = f)])"
    )
    assert [n for n in weights(found) if n.endswith("W_up")] == ["f.W_up"]


def test_a_fn_is_passed_to_a_fn() -> None:
    fn = "fn spun(x[.. dim], position = rotary) { return position(x) }"
    found = model(
        "y = split(x, width -> heads dim)\nx = x * sum(spun(y, position = rotary_paired))", "heads = 2, dim = 4", fn
    )
    assert "stack_axis" in {v.op for v in values(found)}, "only rotary_paired joins along a new axis"


def test_a_fn_in_a_fn_is_seen_there_only() -> None:
    fn = "fn outer(x) {\n fn inner(y) { return 2 * y }\n return inner(inner(x))\n}"
    assert not weights(model("x = outer(x)", more=fn))


def test_the_same_token_lifted_twice_is_one_cache() -> None:
    found = model(
        "s = dot(queries(x), keys(x), over = width)\n"
        "x = x + dot(softmax(s, over = keys, where = causal), keys(x), over = keys)"
    )
    assert [v.attrs["state"] for v in values(found) if v.op == "keys"] == ["x"]


# --- initial values ----------------------------------------------------------------------------------


def roles(body: str) -> dict[str, str]:
    return {n: w.role for n, w in weights(model(body)).items()}


def test_what_multiplies_starts_at_one_and_what_is_added_at_zero() -> None:
    assert roles("x = x * g[width] + b[width]") == {"g": "scale", "b": "bias"}
    assert roles("x = (1 + g[width]) * x") == {"g": "bias"}
    assert roles("x = x * softplus(g[width])") == {"g": "bias"}


def test_a_filter_starts_normal_over_its_taps() -> None:
    (weight,) = weights(model("x = conv(x, w[taps width])", "taps = 4")).values()
    assert (weight.role, weight.contracted) == ("matrix", ("taps",))


def test_an_initial_value_reads_numbers_axes_and_the_shape_of_its_weight() -> None:
    found = model("x = x * g[width] * sum(h[width])\ninit g = 1 + index(width)\ninit h = normal(1 / sqrt(width))")
    g, h = (weights(found)[n].init for n in ("g", "h"))
    assert g is not None
    assert h is not None
    assert g.results[0].type.names == ("width",)
    assert h.results[0].attrs["params"] == (pytest.approx(8**-0.5),)
    assert h.results[0].type.sizes == {"width": 8}


def test_a_default_is_for_matrices_and_tables() -> None:
    found = model(
        "x = x @ W[width] * g[width] + b[width] + x @ V[width]\ninit default = normal(0.5)\ninit V = normal(2)"
    )
    params = {n: w.init.results[0].attrs["params"] for n, w in found.graph.named_weights().items() if w.init}
    assert params == {"E": (0.5,), "W": (0.5,), "V": (2,), "U": (0.5,)}


def test_an_initial_value_that_reads_layer_differs_by_layer() -> None:
    found = program(
        "model m(width = 8, vocab = 16) {\n"
        "block layer { x = x + part(x) }\n"
        "x = stack(E[vocab width](tokens), 3, [layer])\nlogits = x @ U[width -> vocab]\n}\n"
        "fn part(x[width]) {\nreturn x @ W[width]\ninit W = normal(1 / sqrt(layer + 1))\n}\n"
    )
    deviations = [w.init.results[0].attrs["params"][0] for w in weights(found).values() if w.init]
    np.testing.assert_allclose(deviations, [1, 2**-0.5, 3**-0.5])


def test_a_parameter_that_only_an_initial_value_reads_is_used() -> None:
    fn = "fn part(x[width], std) {\nreturn x @ W[width]\ninit W = normal(std)\n}"
    found = model("x = part(x, 0.5)", more=fn)
    (weight,) = weights(found).values()
    assert weight.init is not None
    assert weight.init.results[0].attrs["params"] == (0.5,)


def test_labels_of_values_are_the_names_of_the_text() -> None:
    assert label(model("gate = sigmoid(x)\nx = gate * x"), "gate").op == "sigmoid"
