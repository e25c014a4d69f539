"""The values that ops compute, against formulas that share no code with them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from archc.ir.graph import Axis, Kind, Region, Type, Value
from archc.reference.frame import Array

POS = np.array([[0, 1, 2, 0, 1, 2, 3, 0]])
RNG = np.random.default_rng(11)
Make = Callable[..., Value]
Evaluate = Callable[..., Array]


def draw(*shape: int) -> Array:
    return RNG.normal(size=shape)


def start(t: int) -> int:
    """The first token of the document of token t."""
    return t - int(POS[0, t])


def test_a_convolution_is_a_sum_over_taps_inside_the_document(make: Make, given: Make, evaluate: Evaluate) -> None:
    x, w = given(c=3), given(Kind.WEIGHT, taps=4, c=3)
    a, b = draw(1, 8, 3), draw(4, 3)
    found = evaluate(make("conv", x, w, taps="taps", state="s"), {x: a, w: b}, POS)
    for t in range(8):
        whole = np.concatenate([np.zeros((3, 3)), a[0, start(t) : t + 1]])
        np.testing.assert_allclose(found[0, t], (whole[-4:] * b).sum(0), atol=1e-12)


def test_a_scan_is_a_sum_of_decayed_inputs(make: Make, given: Make, evaluate: Evaluate) -> None:
    decay, u = given(c=3), given(n=2, c=3)
    a, b = draw(1, 8, 3), draw(1, 8, 2, 3)
    value = make("scan", decay, u, state="s")
    assert value.names == ("n", "c")
    found = evaluate(value, {decay: a, u: b}, POS)
    for t in range(8):
        want = sum(np.prod(a[0, s + 1 : t + 1], axis=0) * b[0, s] for s in range(start(t), t + 1))
        np.testing.assert_allclose(found[0, t], want, atol=1e-12)


def test_a_maxscan_is_a_running_maximum_of_decayed_inputs(make: Make, given: Make, evaluate: Evaluate) -> None:
    decay, u = given(c=3), given(c=3)
    f, i = -np.abs(draw(1, 8, 3)), draw(1, 8, 3)
    found = evaluate(make("maxscan", decay, u, state="s"), {decay: f, u: i}, POS)
    for t in range(8):
        want = np.max([i[0, s] + f[0, s + 1 : t + 1].sum(0) for s in range(start(t), t + 1)], axis=0)
        np.testing.assert_allclose(found[0, t], want, atol=1e-12)


def test_prev_is_the_token_before_and_zero_at_the_start(make: Make, given: Make, evaluate: Evaluate) -> None:
    x = given(c=1)
    found = evaluate(make("prev", x, state="s"), {x: np.arange(1.0, 9).reshape(1, 8, 1)}, POS)
    assert found[0, :, 0].tolist() == [0, 1, 2, 0, 4, 5, 6, 0]


def test_a_loop_runs_its_body_from_its_start_in_every_document(make: Make, given: Make, evaluate: Evaluate) -> None:
    x = given(c=1)
    kind = Type(Kind.TOKEN, (Axis("c", 1),), "real", True)
    h = Value(9, "param", (), kind, {"name": "h", "type": kind})
    half = make("div", h, 2)
    out = make("add", half, x)
    body = Region("loop", (h,), (half, out), (out, half))
    loop = make("loop", 4, body=body, states=("h",))
    a = draw(1, 8, 1)
    found = evaluate(make("loop_out", loop, index=0), {x: a}, POS)
    halves = evaluate(make("loop_out", loop, index=1), {x: a}, POS)
    state = 0.0
    for t in range(8):
        state = (4.0 if POS[0, t] == 0 else state) / 2
        assert halves[0, t, 0] == pytest.approx(state)
        state += a[0, t, 0]
        assert found[0, t, 0] == pytest.approx(state)


@pytest.mark.parametrize(
    ("name", "sizes", "seen"),
    [
        ("causal", (), lambda q, k: k <= q),
        ("everything", (), lambda q, k: True),
        ("window", (3,), lambda q, k: q - 2 <= k <= q),
        ("near", (2,), lambda q, k: q - 2 <= k <= q + 2),
        ("dilated", (2, 3), lambda q, k: k in (q, q - 3)),
        ("prefix", (2,), lambda q, k: k < 2),
    ],
)
def test_masks_by_name(
    make: Make, evaluate: Evaluate, name: str, sizes: tuple[int, ...], seen: Callable[[int, int], bool]
) -> None:
    found = evaluate(make("mask", name=name, sizes=sizes), {})
    assert np.broadcast_to(found, (1, 6, 6))[0].tolist() == [[seen(q, k) for k in range(6)] for q in range(6)]


def test_softmax_over_keys_is_over_the_keys_of_the_document(make: Make, given: Make, evaluate: Evaluate) -> None:
    q, k = given(d=2), given(d=2)
    scores = make("contract", make("queries", q), make("keys", k, state="k"), over=("d",))
    window = make("mask", name="window", sizes=(2,))
    a, b = 30 * draw(1, 8, 2), draw(1, 8, 2)
    found = evaluate(make("softmax_keys", scores, window), {q: a, k: b}, POS)
    for t in range(8):
        keys = range(max(start(t), t - 1), t + 1)
        terms = [math.exp(a[0, t] @ b[0, s] - a[0, t] @ b[0, t]) for s in keys]
        want = np.zeros(8)
        want[list(keys)] = np.array(terms) / sum(terms)
        np.testing.assert_allclose(found[0, t], want, atol=1e-12)


def test_a_row_without_any_key_is_zero(make: Make, given: Make, evaluate: Evaluate) -> None:
    x = given()
    pair = make("keys", x, state="k")
    none = make("and", make("mask", name="window", sizes=(1,)), make("lt", pair, 0))
    weights = make("softmax_keys", pair, none)
    assert not evaluate(weights, {x: np.ones((1, 6))}).any()
    assert not evaluate(make("contract_keys", weights, pair, over=()), {x: np.ones((1, 6))}).any()


@pytest.mark.parametrize("fn", ["sum", "mean", "max", "min"])
def test_reductions_over_keys_are_over_the_keys_that_may_be_seen(
    make: Make, given: Make, evaluate: Evaluate, fn: str
) -> None:
    x = given(c=2)
    pair = make("where", make("mask", name="window", sizes=(2,)), make("keys", x, state="k"), 0)
    a = draw(1, 8, 2)
    found = evaluate(make("reduce_keys", pair, fn=fn, over=("c",)), {x: a}, POS)
    for t in range(8):
        assert found[0, t] == pytest.approx(getattr(np, fn)(a[0, max(start(t), t - 1) : t + 1]))


@pytest.mark.parametrize("fn", ["sum", "mean", "max", "min"])
def test_reductions_over_time_leave_padding_out(make: Make, given: Make, evaluate: Evaluate, fn: str) -> None:
    x = given(c=2)
    a = draw(1, 6, 2)
    found = evaluate(make("reduce_time", x, fn=fn, over=()), {x: a}, np.arange(-2, 4)[None])
    np.testing.assert_allclose(found[0], getattr(np, fn)(a[0, 2:], axis=0))


def test_a_contraction_meets_axes_by_name(make: Make, given: Make, evaluate: Evaluate) -> None:
    x, w = given(g=2, a=3), given(Kind.WEIGHT, b=4, a=3, g=2)
    value = make("contract", x, w, over=("a",), made=("b",))
    assert value.names == ("g", "b")
    a, b = draw(1, 6, 2, 3), draw(4, 3, 2)
    np.testing.assert_allclose(evaluate(value, {x: a, w: b}), np.einsum("ztga,bag->ztgb", a, b))


def test_element_wise_ops_join_axes_by_name(make: Make, given: Make, evaluate: Evaluate) -> None:
    x, y = given(a=2, b=3), given(Kind.WEIGHT, b=3, a=2)
    a, b = draw(1, 6, 2, 3), draw(3, 2)
    np.testing.assert_allclose(evaluate(make("mul", x, y), {x: a, y: b}), a * b.T)
    outer = make("sub", given_a := given(a=2), given_b := given(b=3))
    p, q = draw(1, 6, 2), draw(1, 6, 3)
    np.testing.assert_allclose(evaluate(outer, {given_a: p, given_b: q}), p[..., :, None] - q[..., None, :])


def test_merge_orders_its_axes_as_written_and_split_undoes_it(make: Make, given: Make, evaluate: Evaluate) -> None:
    x = given(a=2, b=3, c=4)
    a = draw(1, 6, 2, 3, 4)
    merged = make("merge", x, axes=("c", "a"), into="m")
    assert merged.names == ("b", "m")
    found = evaluate(merged, {x: a})
    assert found[0, 1, 2, 3 * 2 + 1] == a[0, 1, 1, 2, 3]
    back = make("split", merged, axis="m", into=(Axis("c", 4), Axis("a", 2)))
    np.testing.assert_array_equal(evaluate(back, {x: a}), np.transpose(a, (0, 1, 3, 4, 2)))


def test_cuts_are_joined_again(make: Make, given: Make, evaluate: Evaluate) -> None:
    x, y = given(h=2, d=5), given(Kind.WEIGHT, rest=3)
    left = make("slice", x, axis="d", start=0, size=2, into="left")
    right = make("slice", x, axis="d", start=2, size=3, into="right")
    a, b = draw(1, 6, 2, 5), draw(3)
    np.testing.assert_array_equal(evaluate(make("concat", left, right, pieces=("left", "right"), into="d"), {x: a}), a)
    spread = evaluate(make("concat", left, y, pieces=("left", "rest"), into="d"), {x: a, y: b})
    np.testing.assert_array_equal(spread[0, 3, 1], np.concatenate([a[0, 3, 1, :2], b]))


def test_stacked_values_are_picked_again(make: Make, given: Make, evaluate: Evaluate) -> None:
    x, y = given(a=2), given(b=3)
    stacked = make("stack_axis", x, y, into="pair")
    a, b = draw(1, 6, 2), draw(1, 6, 3)
    found = evaluate(make("pick", stacked, axis="pair", at=1), {x: a, y: b})
    np.testing.assert_array_equal(found[0, 0], np.broadcast_to(b[0, 0], (2, 3)))


def test_top_is_true_at_the_k_largest(make: Make, given: Make, evaluate: Evaluate) -> None:
    x = given(e=4)
    a = np.tile([1.0, 3, 3, 2], (1, 6, 1))
    assert evaluate(make("top", x, k=1, over=("e",)), {x: a})[0, 0].tolist() == [False, True, False, False]
    assert evaluate(make("top", x, k=3, over=("e",)), {x: a})[0, 0].tolist() == [False, True, True, True]
    assert evaluate(make("argmax", x, over=("e",)), {x: a})[0, 0] == 1


@pytest.mark.parametrize(
    ("op", "formula"),
    [
        ("gelu", lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2))),
        ("gelu_tanh", lambda x: x / (1 + math.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
        ("silu", lambda x: x / (1 + math.exp(-x))),
        ("softplus", lambda x: math.log1p(math.exp(x))),
        ("rsqrt", lambda x: x**-0.5),
        ("inv_softplus", lambda x: math.log(math.expm1(x))),
        ("relu", lambda x: max(x, 0)),
    ],
)
def test_functions_are_the_textbook_ones(
    make: Make, given: Make, evaluate: Evaluate, op: str, formula: Callable[[float], float]
) -> None:
    x = given()
    for number in (0.3, 1.7, 4.0):
        found = evaluate(make(op, x), {x: np.full((1, 6), number)})
        assert found[0, 0] == pytest.approx(formula(number), rel=1e-12)


def test_functions_stay_finite_far_out(make: Make, given: Make, evaluate: Evaluate) -> None:
    x = given()
    for op, low, high in (("sigmoid", 0, 1), ("softplus", 0, 1e4), ("silu", 0, 1e4)):
        found = evaluate(make(op, x), {x: np.array([[-1e4, 1e4] * 3])})
        np.testing.assert_allclose(found[0, :2], [low, high], atol=1e-12)


def test_complex_numbers_multiply_as_complex(make: Make, given: Make, evaluate: Evaluate) -> None:
    x, y = given(), given()
    square = make("pow", make("complex", x, y), 2)
    a, b = draw(1, 6), draw(1, 6)
    np.testing.assert_allclose(evaluate(make("real", square), {x: a, y: b}), a**2 - b**2)
    np.testing.assert_allclose(evaluate(make("imag", square), {x: a, y: b}), 2 * a * b)


def test_a_softmax_with_a_condition_is_zero_elsewhere(make: Make, given: Make, evaluate: Evaluate) -> None:
    x = given(e=4)
    where = make("top", x, k=2, over=("e",))
    a = np.tile([0.0, 1, 2, 3], (1, 6, 1))
    found = evaluate(make("softmax", x, where, over=("e",)), {x: a})
    np.testing.assert_allclose(found[0, 0], [0, 0, 1 / (1 + math.e), math.e / (1 + math.e)])
