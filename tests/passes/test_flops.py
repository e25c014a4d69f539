"""FLOPs against closed forms from papers and against counting by hand."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np
import pytest

from archc.ir.graph import Graph
from archc.ops.support import Support
from archc.passes.flops import flops
from archc.passes.workload import Workload, full, masked


@pytest.mark.parametrize("time", [128, 2048, 8192])
def test_llama_3_8b_forward_is_the_published_line(spec: Callable[..., Graph], time: int) -> None:
    # 2 * (weights without the look-up) + 4 * 32 layers * 4096 * keys
    found = flops(spec("llama"), Workload(batch=3, time=time, mode="forward")).per_token
    assert found.matrix == 15_009_316_864 + 524_288 * time


@pytest.mark.parametrize(
    ("name", "size", "giga"),
    [
        ("griffin", "100m", 0.240),
        ("hawk", "100m", 0.237),
        ("mqa_transformer", "100m", 0.285),
        ("griffin", "400m", 0.834),
        ("hawk", "400m", 0.848),
        ("mqa_transformer", "400m", 0.882),
        ("griffin", "7b", 14.01),
        ("hawk", "7b", 14.62),
        ("mqa_transformer", "7b", 13.22),
    ],
)
def test_griffin_family_forward_per_token(spec: Callable[..., Graph], name: str, size: str, giga: float) -> None:
    # closed form: 2 * weights (biases too) + conv 8 R + scan 6 R + 4 S D; ours counts gates and norms as vector work
    found = flops(spec(name, size), Workload(time=2048, mode="forward")).per_token
    assert found.total / 1e9 == pytest.approx(giga, rel=5e-3)


def test_the_core_of_a_chunked_scan_is_5_a_state_element(tiny: Callable[[str], Graph]) -> None:
    # k v, decay, add, and the read-out's multiply-add (per layer: heads 4, key 16, value 32; 2 layers)
    found = flops(tiny("retnet"), Workload(time=16, mode="forward")).per_token
    assert found.scan == 2 * 5 * 4 * 16 * 32


def test_a_diagonal_scan_is_2_a_channel_and_a_complex_one_8(
    tiny: Callable[[str], Graph], mixer: Callable[[str], Graph]
) -> None:
    assert flops(tiny("hgrn"), Workload(time=16, mode="forward")).per_token.scan == 4 * 2 * 64
    graph = mixer("return real(scan(decay = 0.5, input = complex(x, x)))")
    assert flops(graph, Workload(time=16, mode="forward")).per_token.scan == 8 * 4


def test_training_is_three_times_the_forward_matrix_work(spec: Callable[..., Graph]) -> None:
    found = flops(spec("pythia", "70m"), Workload(batch=2, time=64))
    assert found.backward.matrix == 2 * found.forward.matrix
    assert found.total.matrix == 3 * found.forward.matrix


def test_a_frozen_matrix_has_no_weight_gradient(model: Callable[[str], Graph]) -> None:
    text = """model m(width = 4, vocab = 11) {{
        x = E[vocab width](tokens)
        logits = x @ A[width -> width'] @ U[width -> vocab]
        {}
    }}"""
    work = Workload(time=1)
    trained, frozen = (flops(model(text.format(t)), work) for t in ("", "frozen A"))
    assert trained.forward == frozen.forward
    assert trained.backward.matrix - frozen.backward.matrix == 2 * 4 * 4


def test_masked_pairs_are_the_pairs_that_a_mask_lets_through() -> None:
    for time in (1, 4, 9):
        for back in (1, 3, 4, 20, inf):
            for ahead in (0, 2, 30, inf):
                seen = sum(-ahead <= q - k < back for q in range(time) for k in range(time))
                assert masked(time, Support(back, ahead)) == seen
    assert full(9, Support(4, 0)) == 36
    assert full(9, Support(inf, 0)) == 81


def test_masked_attention_of_a_window_counts_its_triangle(mixer: Callable[[str], Graph]) -> None:
    graph = mixer(
        "s = dot(queries(x), keys(x), over = width)\n"
        "return dot(softmax(s, over = keys, where = window(3)), keys(x), over = keys)"
    )
    plain = 2 * 4 * 11 * 8
    for attention, pairs in (("full", 8 * 3), ("masked", 1 + 2 + 6 * 3)):
        found = flops(graph, Workload(time=8, mode="forward", attention=attention))  # type: ignore[arg-type]
        assert found.forward.matrix == plain + 2 * 2 * 4 * pairs


def test_a_caller_may_choose_the_pairs(spec: Callable[..., Graph]) -> None:
    graph, work = spec("llama", "tiny"), Workload(time=32, mode="forward")
    none = flops(graph, work, pairs=lambda time, support: 0).forward.matrix
    whole = flops(graph, work, pairs=lambda time, support: time * time).forward.matrix
    assert whole == flops(graph, work).forward.matrix
    assert whole - none == 4 * 4 * 128 * 32 * 32


def test_decoding_reads_the_keys_of_the_context_up_to_the_window(spec: Callable[..., Graph]) -> None:
    graph = spec("recurrentgemma", "2b")
    short, long, longer = (
        flops(graph, Workload(mode="decode", context=c)).per_token.matrix for c in (1024, 2048, 100_000)
    )
    assert long == longer
    assert long - short == 8 * 4 * 1024 * 2560


def test_a_sweep_is_one_call(spec: Callable[..., Graph]) -> None:
    graph = spec("griffin", "tiny")
    times = np.array([16, 128, 1000])
    for attention in ("full", "masked"):
        swept = flops(graph, Workload(batch=2, time=times, attention=attention)).total
        for index, time in enumerate(times.tolist()):
            one = flops(graph, Workload(batch=2, time=time, attention=attention)).total
            assert (swept.matrix[index], swept.vector[index], swept.scan[index]) == (one.matrix, one.vector, one.scan)


def test_rows_are_the_layers_and_sum_to_the_whole(tiny: Callable[[str], Graph]) -> None:
    found = flops(tiny("gru"), Workload(time=8))
    assert [r.layer for r in found.rows] == ["", "layers.0", "layers.1"]
    assert found.total.matrix == sum(r.forward.matrix + r.backward.matrix for r in found.rows)
    # a GRU: six products of 48 x 48, half of them in the loop
    assert found.rows[1].parts["gated_unit"].forward.matrix == 8 * 2 * 6 * 48 * 48


def test_parts_are_the_calls_of_a_block(spec: Callable[..., Graph]) -> None:
    found = flops(spec("llama"), Workload(time=1, mode="forward"))
    parts = found.rows[1].parts
    assert set(parts) == {"", "rms_norm", "attention", "swiglu"}
    assert parts["swiglu"].forward.matrix == 352_321_536  # 6 * width * hidden
    assert parts["attention"].forward.matrix == 83_886_080 + 4 * 4096
    assert parts[""].forward.matrix == 0


def test_experts_whose_gate_is_zero_cost_nothing(spec: Callable[..., Graph]) -> None:
    found = flops(spec("mixtral"), Workload(time=1, mode="forward")).rows[1].parts["moe"].forward
    width, hidden, experts, active = 4096, 14_336, 8, 2
    # the router, three matrices and the weighted sum of the chosen experts
    assert found.matrix == 2 * width * experts + active * (2 * 3 * width * hidden + 2 * width)


def test_experts_that_something_else_reads_are_counted_in_full(model: Callable[[str], Graph]) -> None:
    text = """
    model m(width = 4, vocab = 11, experts = 3) {{
        x = E[vocab width](tokens)
        p = softmax(x @ R[experts], over = experts)
        g = where(top(p, 1, over = experts), p, 0)
        h = x @ W[experts width']
        x = x + dot(g, h, over = experts){more}
        logits = x @ U[width -> vocab]
    }}
    """
    router, head, product, weighted = 2 * 4 * 3, 2 * 4 * 11, 2 * 4 * 3 * 4, 2 * 3 * 4
    spared = flops(model(text.format(more="")), Workload(time=1, mode="forward")).forward.matrix
    assert spared == router + head + (product + weighted) // 3
    read = flops(model(text.format(more=" + sum(h, over = experts)")), Workload(time=1, mode="forward")).forward.matrix
    assert read == router + head + product + weighted // 3


def test_what_is_the_same_for_every_query_is_computed_once_a_key(spec: Callable[..., Graph]) -> None:
    """Keys and values made of a remembered latent: in a sequence once a token, for a decoded token of every latent."""
    width, rank = 2048, 512
    graph = spec("low_rank")
    made = 2 * 2 * rank * width  # keys and values of one token
    rest = 2 * (3 * rank * width + width * width)
    one = flops(graph, Workload(time=1, mode="forward")).rows[1].parts["latent_attention"].forward.matrix
    assert one == made + rest + 4 * width
    many = flops(graph, Workload(time=100, mode="forward")).rows[1].parts["latent_attention"].forward.matrix
    assert many == 100 * (made + rest) + 100 * 100 * 4 * width
    decoded = flops(graph, Workload(context=100, mode="decode")).rows[1].parts["latent_attention"].forward.matrix
    assert decoded == rest + 100 * (made + 4 * width)
