"""Scan classes: the table of the language, on the specs and on small bodies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archc.ir.graph import Graph, Value
from archc.passes.matrix_scans import runs_fused
from archc.passes.scan_class import ScanClass
from archc.passes.scans import classify

TABLE = [  # spec, kind, heads, key, value, decay varies, read before the update
    ("griffin", "diagonal", "gates side", "", "", True, False),
    ("hgrn", "diagonal", "width", "", "", True, False),
    ("rwkv4", "diagonal", "width", "", "", True, True),
    ("mamba", "selective", "inner", "state", "", True, False),
    ("falcon_mamba", "selective", "inner", "state", "", True, False),
    ("mamba1_in_llama", "selective", "kv group part side", "state", "", True, False),
    ("s4d", "long_convolution", "width", "state", "", False, False),
    ("mamba2", "chunked", "groups heads", "state", "dim", True, False),
    ("retnet", "chunked", "heads", "dim", "value", False, False),
    ("mamba_in_llama", "chunked", "kv group", "dim", "value", True, False),
    ("gla", "chunked_key", "heads", "key", "value", True, False),
    ("hgrn2", "chunked_key", "heads", "key", "value", True, False),
    ("rwkv6", "chunked_key", "heads", "key", "value", True, True),
]


def only(graph: Graph) -> ScanClass:
    (found,) = classify(graph).values()
    return found


def labels(found: ScanClass, group: str) -> list[str]:
    return [f.operand.label for f in found.factors[group] if isinstance(f.operand, Value)]  # type: ignore[index]


@pytest.mark.parametrize(("name", "kind", "heads", "key", "value", "varies", "before"), TABLE)
def test_the_table_of_the_language(
    tiny: Callable[[str], Graph],
    name: str,
    kind: str,
    heads: str,
    key: str,
    value: str,
    varies: bool,
    before: bool,
) -> None:
    for found in classify(tiny(name)).values():
        assert (found.kind, found.heads, found.key, found.value) == (
            kind,
            tuple(heads.split()),
            tuple(key.split()),
            tuple(value.split()),
        )
        assert (found.varies, found.before, found.fits) == (varies, before, True)


def test_factors_are_sorted_by_their_axes(tiny: Callable[[str], Graph]) -> None:
    found = only(tiny("mamba2"))
    assert (labels(found, "head"), labels(found, "key"), labels(found, "value")) == (["dt"], ["B"], ["u"])


@pytest.mark.parametrize(
    ("keys", "queries", "channels", "groups"),
    [("state", "state", "b a", ""), ("a state", "state", "a b", "a"), ("a state", "b state", "b a", "b a")],
)
def test_channels_are_in_the_order_of_groups_with_keys_or_a_read_out_of_their_own(
    mixer: Callable[[str], Graph], keys: str, queries: str, channels: str, groups: str
) -> None:
    found = only(
        mixer(
            "state = 2\na = 2\nb = 2\ndt = softplus(x @ W_t[b a])\n"
            f"h = scan(decay = exp(-dt * exp(A[b a state])), input = dt * (x @ W_k[{keys}]))\n"
            f"return dot(h, x @ W_q[{queries}], over = state) @ W[a b -> width]"
        )
    )
    assert (found.kind, found.heads, found.groups) == ("selective", tuple(channels.split()), tuple(groups.split()))
    assert runs_fused(found) == (found.groups != found.heads)


def test_the_bonus_of_rwkv6_is_found(tiny: Callable[[str], Graph]) -> None:
    for found in classify(tiny("rwkv6")).values():
        (bonus,) = found.bonus
        assert set(bonus.names) == {"heads", "key", "value"}
        assert "plus a bonus" in found.sentence


NORMALISED = """
    q = x @ W_q[key = 2]
    _r = x @ W_r[key]
    k = (x @ W_k[key]) * sigmoid(x @ W_g[key])
    v = x @ W_v[value = 3]
    a = sigmoid(x @ W_a[])
    S = scan(decay = a, input = k * v)
    z = scan(decay = {decay}, input = {keys})
    return (dot({S}, q, over = key) / (1 + dot({z}, {q}, over = key) ^ 2)) @ W[value -> width]
"""
AS_WRITTEN = {"decay": "a", "keys": "k", "S": "S", "z": "z", "q": "q"}


@pytest.mark.parametrize("name", ["linear_transformer", "performer"])
def test_sums_of_keys_that_the_same_queries_read_are_a_normaliser(tiny: Callable[[str], Graph], name: str) -> None:
    found = {v.label: c for v, c in classify(tiny(name)).items()}
    assert (found["S"].kind, found["S"].normalises) == ("chunked", None)
    assert found["S"].normaliser is found["z"]
    assert found["z"].normalises is found["S"].scan
    assert found["z"].factors["key"] == found["S"].factors["key"]


def test_keys_may_be_written_as_a_product_in_either_scan(mixer: Callable[[str], Graph]) -> None:
    found = {v.label: c for v, c in classify(mixer(NORMALISED.format(**AS_WRITTEN))).items()}
    assert found["S"].normaliser is found["z"]


@pytest.mark.parametrize(
    "other",
    [
        {"decay": "a ^ 2"},
        {"decay": "0.5"},
        {"keys": "k * 2"},
        {"keys": "_r"},
        {"q": "_r"},
        {"z": "prev(z)"},
        {"S": "prev(S)", "z": "prev(z)"},
        {"z": "(z + k)"},
    ],
)
def test_other_decays_keys_queries_and_moments_make_no_normaliser(
    mixer: Callable[[str], Graph], other: dict[str, str]
) -> None:
    found = classify(mixer(NORMALISED.format(**AS_WRITTEN | other))).values()
    assert [c.normaliser or c.normalises for c in found] == [None, None]


def test_sums_that_the_values_wait_for_are_no_normaliser(mixer: Callable[[str], Graph]) -> None:
    body = """
    k = x @ W_k[key = 2]
    z = scan(decay = 0.5, input = k)
    n = dot(z, k, over = key)
    S = scan(decay = 0.5, input = k * (n * (x @ W_v[value = 3])))
    return dot(S, k, over = key) @ W[value -> width]
    """
    assert all(c.normaliser is None for c in classify(mixer(body)).values())


@pytest.mark.parametrize(
    ("decay", "form", "times"),
    [
        ("exp(x)", "exponent", 1),
        ("sigmoid(x) ^ (1 / 16)", "log_sigmoid", 1 / 16),
        ("fp32(sigmoid(x))", "log_sigmoid", 1),
        ("(1 - sigmoid(x)) ^ 2.5", "log_rest", 2.5),
        ("x", "log", 1),
        ("0.5", "log", 1),
    ],
)
def test_log_decays_are_read_off_the_expression(
    mixer: Callable[[str], Graph], decay: str, form: str, times: float
) -> None:
    log = only(mixer(f"return scan(decay = {decay}, input = x)")).log_decay
    assert (log.form, log.times) == (form, times)


OUTER = """
    k = x @ W_k[key = 2]
    v = x @ W_v[value = 3]
    a = sigmoid(x @ W_a[key = 2])
    S = scan(decay = a, input = k * v)
    {}
"""


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        ("return dot(S, k, over = key) @ W[value -> width]", "chunked_key"),
        ("return sum(S * k, over = key) @ W[value -> width]", "chunked_key"),
        ("return dot(prev(S), k, over = key) @ W[value -> width]", "chunked_key"),
        ("return dot(fp32(S) + 0.5 * k * v, k, over = key) @ W[value -> width]", "chunked_key"),
        ("return (dot(S, k, over = key) + dot(S, a, over = key)) @ W[value -> width]", "chunked_key"),
        ("return tanh(S) @ W[key value -> width]", "diagonal"),
        ("return dot(S, k, over = key) @ W[value -> width] + dot(S, v, over = value) @ U[key -> width]", "diagonal"),
        ("return (dot(S, k, over = key) + dot(prev(S), k, over = key)) @ W[value -> width]", "diagonal"),
        ("return dot(S, S, over = key) @ W[value -> width]", "diagonal"),
    ],
)
def test_the_class_follows_from_how_the_state_is_read(mixer: Callable[[str], Graph], read: str, kind: str) -> None:
    assert only(mixer(OUTER.format(read))).kind == kind


@pytest.mark.parametrize("decay", ["tanh(x @ W_a[key])", "-0.5", "b[key = 2]", "relu(x @ W_a[key]) ^ 2", "0"])
def test_a_decay_that_may_be_0_or_negative_has_no_chunks(mixer: Callable[[str], Graph], decay: str) -> None:
    read = "return dot(S, k, over = key) @ W[value -> width]"
    found = only(mixer(OUTER.replace("sigmoid(x @ W_a[key = 2])", decay).format(read)))
    assert (found.kind, found.fits) == ("diagonal", False)
    assert "its decay may be 0 or negative, and chunks take its logarithm" in found.sentence


def test_read_outs_are_followed_through_functions_that_rename(model: Callable[[str], Graph]) -> None:
    graph = model(
        "model m(width = 4, vocab = 11) {\n"
        "    x = E[vocab width](tokens)\n"
        "    S = scan(decay = 0.9, input = (x @ W_k[key = 2]) * (x @ W_v[value = 3]))\n"
        "    y = read(S, x @ W_q[key = 2])\n"
        "    logits = y @ U[value -> vocab]\n"
        "}\n"
        "fn read(s[dim out], q[dim]) { return dot(s, q, over = dim) }\n"
    )
    found = only(graph)
    assert (found.kind, found.key, found.value) == ("chunked", ("key",), ("value",))


def test_a_scan_that_does_not_fit_says_what_it_costs(mixer: Callable[[str], Graph]) -> None:
    read = "y = dot(S, k, over = key) @ W[value -> width]\nreturn y + dot(S, v, over = value) @ V[key -> width]"
    found = only(mixer(OUTER.format(read)))
    assert not found.fits
    assert found.sentence == (
        "state [key value] is kept for every token (24 bytes a token): its read-outs contract different axes; "
        "contract it directly after the scan"
    )


def test_an_input_that_is_no_outer_product_leaves_channels_only(mixer: Callable[[str], Graph]) -> None:
    found = only(
        mixer(
            "k = x @ W_k[key = 2]\nu = x @ W_u[key = 2 value = 3]\n"
            "S = scan(decay = 0.5, input = u)\nreturn dot(S, k, over = key) @ W[value -> width]"
        )
    )
    assert (found.kind, found.heads, found.value) == ("long_convolution", ("value",), ())
