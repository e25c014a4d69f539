"""What follows a state or its read-out, and how far of it a fused kernel reaches."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archc.fuse.scans import fused_scans
from archc.ir.graph import Graph
from tests.fuse.test_scans import check_values, fused_mixer, names, with_gates

DIAGONAL = """
    head = 2
    side = width / 2
    u = split(x, width -> head side)
    h = scan(decay = sigmoid(u), input = u)
    {}
"""
WHOLE = "merge(h, head side -> width)"
SELECTIVE_STATE = """
    n = 3
    s = scan(decay = exp(softplus(x) * -exp(rate[width n])), input = x * (x @ W_k[n]))
    h = dot(s, x @ W_q[n], over = n)
"""


@pytest.mark.parametrize(
    ("rest", "result", "groups"),
    [
        (f"return {WHOLE} @ W[width -> width']", "scan", ["head", "side"]),
        (f"return ({WHOLE} * silu(x @ W_g[width -> width'])) @ W[width -> width']", "mul", ["head side"]),
        (f"y = {WHOLE}\nreturn merge(tanh(split(y, width -> head side)), head side -> width)",
         "tanh", ["head", "side"]),
        ("y = merge(h, side head -> width)\nreturn merge(tanh(split(y, width -> head side)), head side -> width)",
         "tanh", ["side", "head"]),
        ("return tanh(merge(h, side head -> width))", "tanh", ["side head"]),
        (f"y = {WHOLE}\nreturn (y * silu(y)) @ W[width -> width'] + y", "scan", ["head", "side"]),
        (f"y = {WHOLE}\nreturn y + prev(tanh(y))", "scan", ["head", "side"]),
        (f"return tanh({WHOLE}) + scan(decay = 0.5, input = x)", "tanh", ["head side"]),
        (f"return rms_norm(tanh({WHOLE}))", "tanh", ["head side"]),
    ],
)  # fmt: skip
def test_what_follows_a_state_is_fused_in_whatever_shape(
    mixer: Callable[..., Graph], rest: str, result: str, groups: list[str]
) -> None:
    graph = mixer(DIAGONAL.format(rest))
    check_values(graph)
    fused = next(iter(fused_scans(graph).values()))
    assert fused.result.op == result
    assert [" ".join(a.name for a in group) for group in fused.groups] == groups
    assert (fused.out is None) == (fused.result is fused.scan)


@pytest.mark.parametrize("rest", ["where(pos == 0, h, 2 * h)", "h * pos", "where(top(x, 2, over = width), h, 0)"])
@pytest.mark.parametrize("scan", ["h = scan(decay = sigmoid(x), input = x)", SELECTIVE_STATE])
def test_what_a_kernel_cannot_be_handed_stays_behind_it(mixer: Callable[..., Graph], scan: str, rest: str) -> None:
    graph = mixer(f"{scan}\nreturn {rest}")
    check_values(graph)
    (fused,) = with_gates(graph)
    assert fused.out is None


def test_what_two_states_meet_in_runs_with_the_later_one(mixer: Callable[..., Graph]) -> None:
    body = "a = scan(decay = 0.5, input = x)\nb = scan(decay = sigmoid(x), input = x)\nreturn tanh(a / b)"
    graph = mixer(body)
    check_values(graph)
    first, second = fused_scans(graph).values()
    assert (first.result.op, second.result.op) == ("scan", "tanh")
    assert first.scan in {h.value for h in second.inputs}


def test_what_one_kernel_computes_is_an_input_of_the_next(mixer: Callable[..., Graph]) -> None:
    """And what later tokens read of it is not rounded before."""
    graph = mixer("a = scan(decay = 0.5, input = x)\nreturn tanh(scan(decay = sigmoid(x), input = x * a) + 1)")
    check_values(graph)
    first, second = fused_scans(graph).values()
    assert (first.result.op, second.result.op) == ("scan", "tanh")
    assert [h.value.op for h in second.inputs] == ["param", "scan"]


@pytest.mark.parametrize(
    ("rest", "result"),
    [
        ("return tanh(prev(h)) * x", "mul"),
        ("return (silu(x) * prev(h) + x) @ W[width -> width']", "add"),
        ("return prev(h) @ W[width -> width']", "prev"),
        ("return h + prev(h)", "scan"),  # the kernel gives one of the two
    ],
)
def test_a_state_that_is_only_read_before_its_update_is_read_in_the_kernel(
    mixer: Callable[..., Graph], rest: str, result: str
) -> None:
    graph = mixer(f"h = scan(decay = sigmoid(x), input = x)\n{rest}")
    check_values(graph)
    (fused,) = with_gates(graph)
    assert fused.result.op == result
    assert fused.found.before == (fused.start.op == "prev") == (fused.scan in fused.computed)


SELECTIVE = """
    dt = softplus(x @ W_dt[width -> width'])
    k  = x @ W_k[n = 3]
    q  = x @ W_q[n = 3]
    h  = scan(decay = exp(dt * -exp(rate[width n])), input = dt * k * x)
    y  = dot(h, q, over = n)
    {}
"""


@pytest.mark.parametrize(
    ("rest", "result"),
    [
        ("return y @ W[width -> width']", "contract"),
        ("return (y + D[width] * x) @ W[width -> width']", "add"),
        ("return (y * sigmoid(y) * silu(x @ W_z[width -> width'])) @ W[width -> width']", "mul"),
        ("z = tanh(y) * 2\nreturn (z * rms_norm(z)) @ W[width -> width']", "mul"),  # the norm reads z: no further
        ("return (2 * y) @ W[width -> width'] + y", "contract"),
        ("return y", "contract"),  # what the block adds is not of this function
        ("return rms_norm(tanh(y)) @ W[width -> width']", "tanh"),
    ],
)
def test_what_follows_the_read_out_is_fused_up_to_the_next_contraction(
    mixer: Callable[..., Graph], rest: str, result: str
) -> None:
    fused = fused_mixer(mixer(SELECTIVE.format(rest)))
    read = fused.found.reads[0].value
    assert fused.result.op == result
    assert (fused.out is None) == (fused.result is read)
    assert (read in fused.computed) == (fused.result is not read)  # else the scan would run for it once more


def test_what_a_product_that_is_read_elsewhere_is_made_of_stays_outside(mixer: Callable[..., Graph]) -> None:
    """Who reads the decay of every state needs dt outside of the kernel."""
    body = SELECTIVE.replace(
        "h  = scan(decay = exp(dt * -exp(rate[width n]))", "a = exp(dt * -exp(rate[width n]))\n    h = scan(decay = a"
    )
    fused = fused_mixer(mixer(body.format("return y @ W[width -> width'] + sum(a, over = n)")))
    assert names(fused.inputs) == ["x", "dt"]
    assert not {v.label for v in fused.computed} & {"a", "dt"}


def test_a_decay_with_a_factor_per_sequence_is_no_product_of_tokens_and_weights(mixer: Callable[..., Graph]) -> None:
    body = SELECTIVE.format("return y").replace("exp(dt *", "exp(mean(dt, over = [time]) * dt *")
    (fused,) = fused_scans(mixer(body)).values()
    assert fused.gates is None
