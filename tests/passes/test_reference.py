"""The reference: whole sequences, token by token, packed documents, caches as small as derived; initial values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from archc.ir.graph import Graph
from archc.passes.caches import caches
from archc.reference import Reference, initial_weights, random_weights
from archc.reference.frame import Array
from archc.specs_index import program, shipped

MODELS = [name for name in shipped() if program(name).graph.kind == "model"]
LENGTH = 11
PACKED = np.stack([np.r_[np.arange(4), np.arange(7)], np.r_[np.arange(1), np.arange(2), np.arange(8)]])


def tokens(graph: Graph, length: int = LENGTH, batch: int = 2) -> dict[str, Array]:
    rng = np.random.default_rng(7)
    return {name: rng.integers(0, 90 if name == "tokens" else 2, (batch, length)) for name in graph.inputs}


def stepwise(reference: Reference, inputs: Mapping[str, Array], pos: Array) -> tuple[Array, Mapping[str, Array]]:
    state = reference.start(len(pos))
    rows = []
    for t in range(pos.shape[1]):
        (row,), state = reference.step({k: v[:, t] for k, v in inputs.items()}, state, pos[:, t])
        rows.append(row)
    return np.stack(rows, axis=1), state.parts


@pytest.mark.parametrize("name", MODELS)
def test_token_by_token_is_the_whole_sequence(tiny: Callable[[str], Graph], name: str) -> None:
    graph = tiny(name)
    reference = Reference(graph, random_weights(graph, 1))
    inputs = tokens(graph)
    (whole,) = reference.run(inputs, PACKED)
    steps, parts = stepwise(reference, inputs, PACKED)
    np.testing.assert_allclose(steps, whole, rtol=0, atol=1e-11)
    # what was remembered is what the fold derives, array by array
    for cache in caches(graph):
        kept = parts[cache.name]
        assert kept.size == 2 * cache.kept(LENGTH) * int(np.prod([a.size for a in cache.axes], dtype=int)), cache.name


@pytest.mark.parametrize("name", MODELS)
def test_packed_documents_never_see_each_other(tiny: Callable[[str], Graph], name: str) -> None:
    graph = tiny(name)
    reference = Reference(graph, random_weights(graph, 2))
    inputs = tokens(graph)
    (packed,) = reference.run(inputs, PACKED)
    (alone,) = reference.run({k: v[:1, 4:] for k, v in inputs.items()})
    np.testing.assert_allclose(packed[:1, 4:], alone, rtol=0, atol=1e-11)
    assert np.ptp(packed) > 1e-2


@pytest.mark.parametrize("name", ["dcformer", "griffin", "mamba2", "lstm", "rwkv6"])
def test_chunks_continue_from_a_state(tiny: Callable[[str], Graph], name: str) -> None:
    graph = tiny(name)
    reference = Reference(graph, random_weights(graph, 3))
    inputs = tokens(graph)
    (whole,) = reference.run(inputs)
    state, rows = reference.start(2), []
    for start, stop in ((0, 1), (1, 6), (6, LENGTH)):
        (row,), state = reference.extend({k: v[:, start:stop] for k, v in inputs.items()}, state)
        rows.append(row)
    np.testing.assert_allclose(np.concatenate(rows, axis=1), whole, rtol=0, atol=1e-11)


WINDOWED = """
    q = x @ W_q[dim = 3]
    k = x @ W_k[dim = 3]
    p = softmax(dot(queries(q), keys(k), over = dim), over = keys, where = {})
    return dot(p, keys(x), over = keys)
"""


@pytest.mark.parametrize(
    ("mask", "bound"),
    [("window(3)", 3), ("dilated(2, 3)", 4), ("near(2) and causal", 3), ("window(4) or window(2)", 4)],
)
def test_the_derived_window_is_enough_and_one_token_less_is_not(
    mixer: Callable[[str], Graph], mask: str, bound: int
) -> None:
    graph = mixer(WINDOWED.format(mask))
    reference = Reference(graph, random_weights(graph, 4))
    assert set(reference.kept.values()) == {bound}
    inputs = {"tokens": np.arange(LENGTH)[None] % 7}
    pos = np.arange(LENGTH)[None]
    (whole,) = reference.run(inputs)
    steps, _ = stepwise(reference, inputs, pos)
    np.testing.assert_allclose(steps, whole, rtol=0, atol=1e-12)
    reference.kept = {name: kept - 1 for name, kept in reference.kept.items()}
    short, _ = stepwise(reference, inputs, pos)
    assert np.abs(short - whole).max() > 1e-4


def test_a_window_of_5_sees_the_keys_that_the_authors_of_griffin_see_with_4(mixer: Callable[[str], Graph]) -> None:
    # google-deepmind/recurrentgemma, window 4: a query sees itself and 4 before; packed documents restart
    graph = mixer("return sum(where(window(5), keys(0 * x + 1), 0), over = keys)")
    weights = random_weights(graph)
    weights["U"] = np.eye(4, 11)
    weights["E"] = np.zeros((11, 4))
    packed = np.array([[0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 4]])
    inputs = {"tokens": np.zeros((1, 12), dtype=int)}
    reference = Reference(graph, weights)
    assert reference.run(inputs)[0][0, :, 0].tolist() == [1, 2, 3, 4, 5, 5, 5, 5, 5, 5, 5, 5]
    assert reference.run(inputs, packed)[0][0, :, 0].tolist() == [1, 2, 3, 4, 1, 2, 3, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["bert", "longformer", "linformer"])
def test_encoders_look_ahead(tiny: Callable[[str], Graph], name: str) -> None:
    graph = tiny(name)
    reference = Reference(graph, random_weights(graph, 5))
    inputs = tokens(graph)
    before = reference.run(inputs)[0]
    inputs["tokens"][:, -1] += 1
    assert np.abs(reference.run(inputs)[0][:, 0] - before[:, 0]).max() > 1e-6


def test_padding_on_the_left_is_not_seen(tiny: Callable[[str], Graph]) -> None:
    graph = tiny("griffin")
    reference = Reference(graph, random_weights(graph, 6))
    inputs = tokens(graph)
    padded = np.broadcast_to(np.arange(-3, LENGTH - 3), (2, LENGTH))
    (found,) = reference.run(inputs, padded)
    (plain,) = reference.run({k: v[:, 3:] for k, v in inputs.items()})
    np.testing.assert_allclose(found[:, 3:], plain, rtol=0, atol=1e-11)


def test_outputs_per_sequence_come_without_time(tiny: Callable[[str], Graph]) -> None:
    graph = tiny("bert")
    logits, is_next = Reference(graph, random_weights(graph)).run(tokens(graph))
    assert (logits.shape, is_next.shape) == ((2, LENGTH, 257), (2, 2))


def test_weights_must_be_the_graph_s(tiny: Callable[[str], Graph]) -> None:
    graph = tiny("llama")
    weights = random_weights(graph)
    with pytest.raises(ValueError, match="'E' is \\(3,\\), not \\(256, 128\\)"):
        Reference(graph, {**weights, "E": np.zeros(3)})
    with pytest.raises(ValueError, match="weights differ from the graph's: \\['V'\\]"):
        Reference(graph, {**weights, "V": np.zeros(3)})


def test_initial_values_follow_the_text(tiny: Callable[[str], Graph]) -> None:
    griffin = initial_weights(tiny("griffin"), 3)
    # lambda is such that a^2 is uniform in [0.9^2, 0.999^2] with a = exp(-softplus(lambda))
    a = np.exp(-np.logaddexp(0, griffin["layers.0.rg_lru.lambda_"]))
    assert a.min() > 0.9
    assert a.max() < 0.999
    assert np.std(a**2) == pytest.approx((0.999**2 - 0.9**2) / np.sqrt(12), rel=0.15)
    assert np.std(griffin["layers.0.rg_lru.W_x"]) == pytest.approx(1 / np.sqrt(192), rel=0.05)
    assert np.std(griffin["layers.0.rg_lru.W_r"]) == pytest.approx(1 / np.sqrt(64), rel=0.05)
    falcon = initial_weights(tiny("falcon_mamba"), 3)
    assert np.std(falcon["layers.0.mixer.w_conv"]) == pytest.approx(1 / np.sqrt(4), rel=0.1)
    assert not griffin["layers.0.rg_lru.b_x"].any()
    assert (griffin["rms_norm.scale"] == 1).all()
    mamba = initial_weights(tiny("mamba"), 3)
    np.testing.assert_allclose(np.exp(mamba["layers.1.selective_ssm.A_log"][5]), np.arange(1, 17))
    steps = np.logaddexp(0, mamba["layers.0.selective_ssm.b_dt"])
    assert 1e-3 <= steps.min() < 3e-3
    assert 3e-2 < steps.max() <= 1e-1
    assert np.std(mamba["E"]) == pytest.approx(0.02, rel=0.05)


def test_orthogonal_rays_are_orthogonal_in_blocks(tiny: Callable[[str], Graph]) -> None:
    rays = initial_weights(tiny("performer"))["layers.0.favor.omega"]
    for block in (rays[:, :16], rays[:, 16:]):
        np.testing.assert_allclose(block.T @ block, 16 * np.eye(16), atol=1e-10)


def test_the_same_seed_gives_the_same_weights(tiny: Callable[[str], Graph]) -> None:
    graph = tiny("mamba")
    for make in (initial_weights, random_weights):
        one, two, other = make(graph, 1), make(graph, 1), make(graph, 2)
        assert all((one[n] == two[n]).all() for n in one)
        assert (one["E"] != other["E"]).any()
