"""Laws of random mixers: what is proved causal is causal, and decodes with caches of the derived size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from archc.diagnostics import ArchError
from archc.ir.graph import Graph
from archc.passes.caches import caches
from archc.reference import Reference, random_weights
from archc.reference.frame import Array

LENGTH = 7
POS = np.array([[0, 1, 2, 0, 1, 2, 3]])

Draw = Callable[[st.SearchStrategy[str]], str]


def size(draw: Draw) -> str:
    return draw(st.sampled_from("1234"))


def mask(draw: Draw, depth: int) -> str:
    """An expression for a mask."""
    kinds = ["causal", "window", "near", "prefix", "dilated", "everything", "compare"]
    match draw(st.sampled_from(kinds if depth == 0 else [*kinds, "and", "or", "not"])):
        case "causal" | "everything" as plain:
            return plain
        case "dilated":
            return f"dilated({size(draw)}, {size(draw)})"
        case "compare":
            return "queries(pos) > keys(pos)"
        case "and" | "or" as word:
            return f"({mask(draw, depth - 1)} {word} {mask(draw, depth - 1)})"
        case "not":
            return f"(not {mask(draw, depth - 1)})"
        case name:
            return f"{name}({size(draw)})"


def pair(draw: Draw, depth: int) -> str:
    """An expression for a pair."""
    kinds = ["keys", "queries"]
    match draw(st.sampled_from(kinds if depth == 0 else [*kinds, "tanh", "sum", "softmax", "where", "where"])):
        case "keys" | "queries" as lift:
            return f"{lift}({token(draw, max(depth - 1, 0))})"
        case "tanh":
            return f"tanh({pair(draw, depth - 1)})"
        case "sum":
            return f"({pair(draw, depth - 1)} {draw(st.sampled_from('+*-'))} {pair(draw, depth - 1)})"
        case "softmax":
            return f"softmax({pair(draw, depth - 1)}, over = keys, where = {mask(draw, 1)})"
        case _:
            return f"where({mask(draw, 1)}, {pair(draw, depth - 1)}, {draw(st.sampled_from('001'))})"


def token(draw: Draw, depth: int) -> str:
    """An expression for a token, most likely one that crosses time."""
    match draw(st.sampled_from(["x"] if depth == 0 else ["prev", "scan", "maxscan", "sum", "reduce", "dot", "dot"])):
        case "x":
            return "x"
        case "prev":
            return f"prev({token(draw, depth - 1)})"
        case "scan":
            return f"scan(decay = sigmoid({token(draw, depth - 1)}), input = {token(draw, depth - 1)})"
        case "maxscan":
            return f"maxscan(decay = -abs({token(draw, depth - 1)}), input = {token(draw, depth - 1)})"
        case "sum":
            return f"({token(draw, depth - 1)} {draw(st.sampled_from('+*-'))} {token(draw, depth - 1)})"
        case "reduce":
            return f"{draw(st.sampled_from(['sum', 'mean', 'max', 'min']))}({pair(draw, depth)}, over = keys)"
        case _:
            return f"dot({pair(draw, depth)}, {pair(draw, depth)}, over = keys)"


BODIES = st.composite(lambda draw: token(draw, 2))()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
@given(body=BODIES)
def test_what_is_proved_causal_is_causal_and_decodes(mixer: Callable[[str], Graph], body: str) -> None:
    graph = mixer(f"return {body}")
    try:
        reference = Reference(graph, random_weights(graph, 1))
    except ArchError as refused:
        event(f"refused {refused.diagnostics[0].code}")
        assume(False)
    event("accepted")
    given_tokens = np.array([[3, 1, 4, 1, 5, 9, 2]])
    (whole,) = reference.run({"tokens": given_tokens}, POS)
    changed = given_tokens.copy()
    changed[:, 4:] = 7
    (other,) = reference.run({"tokens": changed}, POS)
    np.testing.assert_array_equal(whole[:, :4], other[:, :4])
    steps, parts = stepwise(reference, given_tokens)
    np.testing.assert_allclose(steps, whole, rtol=1e-9, atol=1e-9)
    for cache in caches(graph):
        assert parts[cache.name].size == cache.kept(LENGTH) * 4


def stepwise(reference: Reference, inputs: Array) -> tuple[Array, dict[str, Array]]:
    state, rows = reference.start(1), []
    for t in range(LENGTH):
        (row,), state = reference.step({"tokens": inputs[:, t]}, state, POS[:, t])
        rows.append(row)
    return np.stack(rows, axis=1), dict(state.parts)
