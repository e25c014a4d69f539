"""What is said of kernels: every scan and every sum over keys once, with the bytes that its table of inputs gives."""

from __future__ import annotations

import pytest

from archc.reports.kernels import explanation
from archc.specs_index import program, shipped


def test_the_gates_of_griffin_run_in_the_kernel_of_its_scan() -> None:
    lines = explanation(program("griffin:tiny")).splitlines()
    at = lines.index("  recurrent, each of 4: rg_lru.h")
    assert "gated_scan" in lines[at + 2]
    # three inputs of the gates and that of the output gate in bfloat16 are read and one result written; going back they
    # are read again, with the derivative that comes in, and four written
    assert "10 bytes an element forward (at best 10), 18 backward (at best 18)" in lines[at + 3]
    assert "a projection" in lines[at + 4]


def test_the_kernel_of_a_selective_scan_has_a_name_of_its_own() -> None:
    lines = explanation(program("mamba:tiny")).splitlines()
    at = lines.index("  mixer, each of 4: selective_ssm.h")
    assert lines[at + 2].strip().startswith("kernel gated_selective_scan:")


def test_what_follows_a_convolution_runs_in_its_kernel() -> None:
    lines = explanation(program("mamba2:tiny")).splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith(": ssd.conv_u"))
    assert lines[at + 1].strip() == "4 taps over [groups heads dim]"
    assert lines[at + 2].strip() == "kernel causal_conv: the bias, silu run inside"
    # a token and a result in bfloat16; going back the token, two derivatives; apart the sum over taps reads one value
    # and writes one, as silu does, and the bias adds another two
    assert (
        lines[at + 3].strip().startswith("4 bytes an element forward (at best 4), 6 backward (at best 6); 12 forward")
    )


def test_composed_heads_run_in_the_kernel_of_their_attention() -> None:
    lines = explanation(program("dcformer:tiny")).splitlines()
    at = lines.index("  transformer 1, each of 2: dot(p, keys(v), over = keys)")
    assert "4 heads of 32, mixed before and after the softmax, each sees the last 32 keys" in lines[at + 1]
    assert lines[at + 2].strip().startswith("kernel composed_attention:")
    # queries, keys, values and the result are 2 bytes each; either composition reads 40 numbers for the 128 elements of
    # a token, which is 0.625 bytes; a number in single precision per head is 0.125
    assert "14.1 bytes an element forward (at best 9.25)" in lines[at + 3]  # (4 + 0.625 + 0.125) + (8 + 1.25 + 0.125)
    # four times all inputs, the derivative that comes in and a number per head; three more of these; all gradients
    assert "45.1 backward (at best 16.5)" in lines[at + 3]
    # of a key and its value 2 bytes each, of what either composition reads of the key 20 numbers, 0.3125 bytes
    assert "a single token: 4.62 bytes an element of every key" in lines[at + 4]


def test_a_program_of_pairs_says_why_no_kernel_runs_it() -> None:
    text = explanation(program("longformer"))
    assert (
        "kernel over_rows: operations of their own on blocks of queries, not fused, since its mask is neither" in text
    )


def test_pairs_within_buckets_run_in_the_order_of_buckets() -> None:
    text = explanation(program("reformer:tiny"))
    assert (
        "a query sees the keys in its bucket in one of 2 rounds; of 4 even buckets that is 43.75% of all pairs" in text
    )
    assert "kernel over_buckets: tiles of sorted queries against" in text


@pytest.mark.parametrize("name", shipped())
def test_every_scan_and_every_sum_over_keys_is_explained(name: str) -> None:
    found = program(name)
    text = explanation(found)
    regions = [region for region, _ in found.graph.regions()]
    scans = [v for r in regions for v in r.values if v in r.live and v.op == "scan"]
    sums = [v for r in regions for v in r.values if v in r.live and v.op in ("contract_keys", "reduce_keys")]
    loops = [v for r in regions for v in r.values if v in r.live and v.op == "loop"]
    convs = [v for r in regions for v in r.values if v in r.live and v.op == "conv"]
    assert sum("  kernel " in line for line in text.splitlines()) == len([*scans, *sums, *loops, *convs])
    assert all(f": {v.attrs['state']}" in text for v in scans)
    assert all(f": {', '.join(v.attrs['states'])}" in text for v in loops)
    lines = text.splitlines()
    apart = [i for i, line in enumerate(lines) if "operations of their own" in line or "are not fused" in line]
    assert all(" since " in lines[i] or ("kernel scan:" in lines[i] and " since " in lines[i + 1]) for i in apart)


def test_the_gates_of_a_state_that_is_read_before_its_update_run_in_its_kernel() -> None:
    text = explanation(program("rwkv4:tiny"))
    assert text.count("the state before each token is what is read") == text.count("kernel gated_scan:") == 2
