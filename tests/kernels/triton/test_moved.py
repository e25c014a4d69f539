"""What scans of channels, convolutions and a token of composed heads move: see `moved`."""

from collections import Counter
from math import prod

import pytest
from archc.backends.torch.moved import accesses

from archc.fuse.composed import Composition, compositions
from archc.fuse.traffic import pair_traffic
from archc.specs_index import program
from tests.kernels.triton.moved import fused, moved, reported, started
from tests.kernels.triton.shipped import SETTINGS, launches

DIAGONAL = {"griffin": ("scan", 1), "hgrn": ("scan", 1), "lru": ("complex", 2)}
"""What the kernels of a spec are called, and of how many parts its states are."""


@pytest.mark.parametrize("spec", DIAGONAL)
def test_a_diagonal_scan_moves_what_the_report_says(spec: str) -> None:
    """Of the states that are kept, 4 bytes by K tokens in the code, a mask lets one in SPAN through."""
    name, parts = DIAGONAL[spec]
    found = started(spec, f"{name}_forward")
    c = found.launch.constants
    got = moved(found, "BC", (1 / (c["K"] * c["S"]),))
    assert got.pop("CARRIES") == parts * 4 / c["K"]
    assert got.pop("pos") == 8 / c["BC"]
    assert sum(got.values()) == reported(spec).forward == reported(spec).ideal_forward


@pytest.mark.parametrize("spec", DIAGONAL)
def test_a_diagonal_scan_moves_what_the_report_says_going_back(spec: str) -> None:
    """One kept state is read by tile."""
    name, parts = DIAGONAL[spec]
    found = started(spec, f"{name}_backward")
    c = found.launch.constants
    got = moved(found, "BC", (1 / (c["K"] * c["S"]),))
    assert got.pop("carries") == parts * 4 / (c["K"] * c["S"])
    assert got.pop("pos") == 8 / c["BC"]
    assert sum(got.values()) == reported(spec).backward == reported(spec).ideal_backward


def test_a_selective_scan_moves_what_the_report_says_and_reads_an_input_twice() -> None:
    """The input is there again for the read-out, for all tokens of a block but the last. States are kept by CHUNK."""
    found = started("mamba", "selective_forward")
    c = found.launch.constants
    states, width = c["STATES"], c["SIZE"]
    got = moved(found, "SIZE", (1 / c["CHUNK"], 1 / c["BLOCK"]))
    assert got.pop("CARRIES") == 4 * states / c["CHUNK"]
    assert got.pop("pos") == 8 / width
    assert got.pop("keys") + got.pop("queries") == 2 * 2 * states / width
    assert got.pop("xs 0") == 2 * (2 - 1 / c["BLOCK"])
    scan = fused("mamba")
    shared = 2 * 2 * states / scan.scan.type.sizes[scan.tile[0]]
    assert 2 + sum(got.values()) == pytest.approx(reported("mamba").forward - shared)


def test_a_selective_scan_going_back_reads_inputs_for_each_of_its_three_walks() -> None:
    """A chunk is walked forward again, then back, and the gradients of its inputs are computed at the end of a block.

    What the walk forward leaves, states of blocks and read-outs, and the adjoint and the sums of all states stay in the
    cache: a program has the same few kilobytes for as long as it runs.
    """
    found = started("mamba", "selective_backward")
    c = found.launch.constants
    states, width, block, chunk = c["STATES"], c["SIZE"], c["BLOCK"], c["CHUNK"]
    groups = states / c["GROUP"] / block
    got = moved(found, "SIZE", (1 / chunk, states / chunk, 1 / block, groups, 1 / block, groups))
    for name in ("notes", "NOTES", "reads", "READS", "dstate", "DSTATE", "dA", "DA", "A"):
        got.pop(name)  # in the cache
    assert got.pop("carries") == 4 * states / chunk
    assert got.pop("pos") == 2 * 8 / width
    assert got.pop("keys") + got.pop("queries") == 2 * 2 * 2 * states / width
    assert got.pop("DKEYS") + got.pop("DQUERIES") == 2 * 4 * states / width  # sums over the channels of a program
    assert [got.pop(f"xs {i}") for i in range(3)] == [3 * 2, 2 * 2, 3 * 2]
    assert got.pop("dy") == 2 * 2
    scan = fused("mamba")
    shared = 2 * 2 * 2 * states / scan.scan.type.sizes[scan.tile[0]]
    assert 2 * 3 + 2 + sum(got.values()) == pytest.approx(reported("mamba").backward - shared)


def test_a_selective_scan_in_groups_moves_what_the_report_says_and_each_channel_loads_the_row_of_its_group() -> None:
    """Going back, the gradients of queries, which no groups share, leave as they are; those of keys are added up."""
    found, scan = started("mamba1_in_llama", "selective_forward"), fused("mamba1_in_llama")
    c, sizes = found.launch.constants, scan.scan.type.sizes
    states, channels = c["STATES"], prod(sizes[n] for n in scan.tile)
    rows = [v.type.elements for v in (scan.found.reads[0].query, *(f.operand for f in scan.found.factors["key"]))]
    assert rows == [c["QUERIES"][0] * states, c["KEYS"][0] * states]
    got = moved(found, "SIZE", (1 / c["CHUNK"], 1 / c["BLOCK"]))
    assert (got.pop("CARRIES"), got.pop("pos")) == (4 * states / c["CHUNK"], 8 / c["SIZE"])
    assert (got.pop("keys"), got.pop("queries")) == (2 * states, 2 * states)
    assert got.pop("xs 0") == 2 * (2 - 1 / c["BLOCK"])  # again for the read-out, but for the last token of a block
    assert 2 + sum(got.values()) == pytest.approx(reported("mamba1_in_llama").forward - 2 * sum(rows) / channels)
    found = started("mamba1_in_llama", "selective_backward")
    c = found.launch.constants
    groups = states / c["GROUP"] / c["BLOCK"]
    got = moved(found, "SIZE", (1 / c["CHUNK"], states / c["CHUNK"], 1 / c["BLOCK"], groups, 1 / c["BLOCK"], groups))
    assert (got["DKEYS"], got["DQUERIES"]) == (4 * states / c["WIDTH"], 2 * states / c["WIDTH"])


def test_a_convolution_loads_the_tokens_before_a_segment_again() -> None:
    """At best 2 bytes in and 2 out; going back 4 in, input and gradient, and 2 out. The bias is in the cache."""
    found = started("griffin", "conv_forward")
    c = found.launch.constants
    halo = (c["K"] + c["TAPS"] - 1) / c["K"]
    got = moved(found, "BC", (1 / (c["K"] * c["S"]),))
    assert got.pop("pos") == 8 / c["BC"]
    assert got.pop("bias") == 2 / c["S"]
    assert got == {"x": 2 * halo, "Y": 2}
    got = moved(started("griffin", "conv_backward"), "BC", (1 / (c["K"] * c["S"]),))
    assert got.pop("pos") <= 8 * halo / c["BC"]
    assert got == {"x": 2, "dy": 2 * halo, "DX": 2}


def test_a_token_with_composed_heads_reads_every_key_once() -> None:
    """Beside it, scores in single precision, which the cache has: they are written and read, weights likewise, and
    these once for each slice of the values. What queries have is in the cache, too.
    """
    found = [each for name, each in launches("dcpythia", 90).items() if name.startswith("composed_token:")]
    total: Counter[str] = Counter()
    for each in found[:2]:  # the scores, then the values
        c = each.launch.constants
        for access in accesses(each.launch, 90):
            if access.loops:
                name = access.argument.upper() if access.stores else access.argument.partition(" ")[0]
                total[name] += access.bytes * (c["E"] // c["SLICE"] if len(access.loops) == 2 else 1)
    c = found[0].launch.constants
    got = {name: bytes / (c["BK"] * c["H"] * c["E"]) for name, bytes in total.items()}
    assert got.keys() == {"q", "k", "v", "q_tokens", "k_tokens", "q_after", "k_after", "s", "S", "Y"}
    assert got["S"] + got["s"] == 4 * (2 + 1 + c["E"] // c["SLICE"]) / c["E"]
    attention = next(
        c for c in compositions(program("dcpythia", SETTINGS).graph).values() if isinstance(c, Composition)
    )
    assert sum(got[name] for name in ("k", "v", "k_tokens", "k_after")) == pair_traffic(attention).token
