"""Which pair programs are recognised as plain attention."""

from __future__ import annotations

from collections.abc import Callable
from math import isclose

import pytest

from archc.ir.graph import Graph
from archc.passes.attention import Attention, attentions


def only(graph: Graph) -> Attention:
    (found,) = attentions(graph).values()
    return found


@pytest.mark.parametrize(
    ("name", "layers", "groups", "members", "window", "causal"),
    [
        ("llama", 1, ("kv",), ("group",), None, True),
        ("mistral", 1, ("kv",), ("group",), 7, True),
        ("griffin", 1, (), ("heads",), 128, True),
        ("pythia", 1, ("heads",), (), None, True),
        ("mamba_in_llama", 1, ("kv",), ("group",), None, True),
        ("bert", 1, ("heads",), (), None, False),
        ("dcformer", 0, (), (), None, True),
    ],
)
def test_the_attention_of_the_specs(
    tiny: Callable[[str], Graph],
    name: str,
    layers: int,
    groups: tuple[str, ...],
    members: tuple[str, ...],
    window: int | None,
    causal: bool,
) -> None:
    found = attentions(tiny(name))
    assert len(found) == layers
    for each in found.values():
        assert (each.groups, each.members, each.window, each.causal) == (groups, members, window, causal)
        assert (each.query.label, each.key.label, each.value.label) == ("q", "k", "v")


PROGRAM = """
    q = x @ W_q[heads = 2 dim = 3]
    k = x @ W_k[heads = 2 dim = 3]
    v = x @ W_v[heads = 2 dim = 3]
    s = {}
    p = softmax(s, over = keys, where = {})
    return {} @ W_o[heads dim -> width]
"""
SCORES = "dot(queries(q), keys(k), over = dim)"
MIX = "dot(p, keys(v), over = keys)"


@pytest.mark.parametrize(
    ("scores", "scale"),
    [
        (SCORES, 1),
        (f"{SCORES} / 2", 0.5),
        (f"0.5 * {SCORES} * 3", 1.5),
        (f"fp32({SCORES} / 4)", 0.25),
        ("dot(keys(k), queries(q), over = dim)", 1),
    ],
)
def test_scales_are_collected(mixer: Callable[[str], Graph], scores: str, scale: float) -> None:
    found = only(mixer(PROGRAM.format(scores, "causal", MIX)))
    assert isclose(found.scale, scale)
    assert found.query.label == "q"


@pytest.mark.parametrize(
    ("scores", "mask", "mix"),
    [
        (f"softcap({SCORES}, 30)", "causal", MIX),
        (f"{SCORES} + bias[heads]", "causal", MIX),
        (f"{SCORES} * keys(sigmoid(x @ W_g[heads]))", "causal", MIX),
        (SCORES, "dilated(2, 3)", MIX),
        (SCORES, "causal and keys(pos) > 2", MIX),
        (SCORES, "causal", "dot(p * p, keys(v), over = keys)"),
        (SCORES, "causal", "(dot(p, keys(v), over = keys) + dot(p, keys(q), over = keys))"),
        (SCORES, "causal", "dot(p + s * where(causal, 1, 0), keys(v), over = keys)"),
    ],
)
def test_anything_else_is_left_to_the_pair_programs(
    mixer: Callable[[str], Graph], scores: str, mask: str, mix: str
) -> None:
    assert attentions(mixer(PROGRAM.format(scores, mask, mix))) == {}


def test_masks_that_meet_are_a_window(mixer: Callable[[str], Graph]) -> None:
    found = only(mixer(PROGRAM.format(SCORES, "window(5) and causal and window(3)", MIX)))
    assert (found.causal, found.window) == (True, 3)
