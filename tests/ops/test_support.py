"""Where a pair may be non-zero: what is derived always covers what is computed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archc.ir.graph import Kind, Value
from archc.ops.support import CAUSAL, EVERYWHERE, NOWHERE, Support
from archc.ops.table import OPS
from archc.reference.frame import Array

SIZES = st.integers(1, 4)
MASKS = st.one_of(
    st.just(("causal", ())),
    st.just(("everything", ())),
    st.tuples(st.sampled_from(["window", "near", "prefix"]), st.tuples(SIZES)),
    st.tuples(st.just("dilated"), st.tuples(SIZES, SIZES)),
)
COUNT = count()
UNARY = st.sampled_from(["tanh", "exp", "relu", "neg", "sigmoid", "sqrt", "cos", "expm1", "abs", "silu", "not"])
BINARY = st.sampled_from(["mul", "add", "sub", "div", "maximum", "minimum", "and", "or", "gt", "where"])
PROGRAMS = st.recursive(
    st.one_of(
        MASKS.map(lambda m: ("mask", m)), st.just(("keys",)), st.just(("queries",)), st.sampled_from([0, 1, 2.5])
    ),
    lambda inner: st.one_of(
        st.tuples(UNARY, inner),
        st.tuples(BINARY, inner, inner),
        st.tuples(st.just("pow"), inner, st.sampled_from([0, 2, -1])),
        st.tuples(st.just("softmax"), inner, inner),
    ),
    max_leaves=6,
)


def build(program: Any, make: Callable[..., Value], x: Value) -> Any:
    """The values of a program; numbers stay numbers."""
    if not isinstance(program, tuple):
        return program
    name, *rest = program
    if name == "mask":
        return make("mask", name=rest[0][0], sizes=rest[0][1])
    if name in ("keys", "queries"):
        return make(name, x, state=f"k{next(COUNT)}") if name == "keys" else make(name, x)
    args = [build(r, make, x) for r in rest]
    if not isinstance(args[0], Value):
        return args[0]
    if name == "where":
        return make("where", make("ne", args[0], 0), args[1], 0)
    if name == "softmax":
        return make("softmax_keys", args[0], make("ne", args[1], 0)) if isinstance(args[1], Value) else args[0]
    return make(name, *args)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=PROGRAMS)
def test_a_pair_is_zero_outside_of_its_support(
    make: Callable[..., Value], evaluate: Callable[..., Array], program: Any
) -> None:
    x = Value(-5, "param", (), make("pos").type, {"name": "x", "type": make("pos").type})
    value = build(program, make, x)
    if not isinstance(value, Value):
        return
    found = derived(value)
    with np.errstate(all="ignore"):
        array = np.broadcast_to(evaluate(value, {x: np.array([[3, 1, 0, 2, 5, 1, 4]])}, length=7), (1, 7, 7))[0]
    for q in range(7):
        for k in range(7):
            if not -found.ahead <= q - k < found.back:
                assert not array[q, k] or np.isnan(array[q, k]), (q, k, found)


def derived(value: Value) -> Support:
    of = tuple(derived(a) if isinstance(a, Value) and a.kind is Kind.PAIR else None for a in value.args)
    return OPS[value.op].support(value, of)


def test_supports_meet_and_join_as_intervals() -> None:
    window, near = Support(5, 0), Support(3, 2)
    assert window.meet(near) == Support(3, 0)
    assert window.join(near) == Support(5, 2)
    assert NOWHERE.join(near) == near
    assert EVERYWHERE.meet(near) == near
    assert CAUSAL.causal
    assert not Support(inf, 1).causal


@pytest.mark.parametrize("op", ["scan", "conv", "reduce_keys", "stack"])
def test_ops_that_never_make_pairs_say_so(op: str, make: Callable[..., Value]) -> None:
    with pytest.raises(AssertionError, match="cannot be a pair"):
        OPS[op].support(make("pos"), ())
