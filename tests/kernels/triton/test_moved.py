"""Bytes in the code of kernels against those that the report prints: per token and element of the scan's tile.

The report counts what must cross memory: every input once, every result once. In the code of a kernel stand loads and
stores. Where there are more of them than the report has, the tests say which, and why:

- positions and what is kept for the backward pass: a few bytes that the report leaves out, as it says;
- what neighbours share is loaded by each of them, and comes from a cache for all but one: the tokens before a segment
  in a convolution, keys and queries of the heads and value slices of a scan of outer products, those of the channels in
  a selective scan;
- what a selective scan reads again, a few tokens after it did, where keeping it would take the registers of states;
- sums over programs, that are added up outside for the sake of one order: the gradients of keys and queries. These do
  cross memory: without them several programs would have to add into one array.
"""

from collections import Counter
from math import prod

import pytest
from archc.backends.torch.kernels.chunk_sizes import key_parts
from archc.backends.torch.launches import Launched
from archc.backends.torch.moved import accesses

from archc.fuse.composed import Composition, compositions
from archc.fuse.scans import FusedScan, fused_scans
from archc.fuse.traffic import Traffic, outer_traffic, pair_traffic
from archc.passes.scans import classify, inside
from archc.specs_index import program
from tests.kernels.triton.shipped import SETTINGS, launches

Moved = dict[str, float]


def started(spec: str, kernel: str) -> Launched:
    """The launch of a kernel in training, the one with the most programs."""
    found = [each for name, each in launches(spec, 90).items() if name.startswith(f"{kernel}:")]
    return max((each for each in found if each.use == "training"), key=lambda each: each.programs)


def moved(found: Launched, channels: str, times: tuple[float, ...]) -> Moved:
    """Bytes by argument in the loops of a kernel, stores in capitals. times: how often each loop runs per token."""
    total: Counter[str] = Counter()
    for each in accesses(found.launch, 90):
        if each.loops:
            name = each.argument.upper() if each.stores else each.argument
            total[name] += each.bytes * times[each.loops[-1]] / found.launch.constants[channels]
    return dict(total)


def fused(spec: str) -> FusedScan:
    return next(iter(fused_scans(program(spec, SETTINGS).graph).values()))


def reported(spec: str) -> Traffic:
    traffic = fused(spec).traffic
    assert traffic is not None
    return traffic


@pytest.mark.parametrize("spec", ["griffin", "hgrn"])
def test_a_diagonal_scan_moves_what_the_report_says(spec: str) -> None:
    """Of the states that are kept, 4 bytes by K tokens in the code, a mask lets one in SPAN through."""
    found = started(spec, "scan_forward")
    c = found.launch.constants
    got = moved(found, "BC", (1 / (c["K"] * c["S"]),))
    assert got.pop("CARRIES") == 4 / c["K"]
    assert got.pop("pos") == 8 / c["BC"]
    assert sum(got.values()) == reported(spec).forward == reported(spec).ideal_forward


@pytest.mark.parametrize("spec", ["griffin", "hgrn"])
def test_a_diagonal_scan_moves_what_the_report_says_going_back(spec: str) -> None:
    """One kept state is read by tile."""
    found = started(spec, "scan_backward")
    c = found.launch.constants
    got = moved(found, "BC", (1 / (c["K"] * c["S"]),))
    assert got.pop("carries") == 4 / (c["K"] * c["S"])
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


def outer(spec: str) -> tuple[Traffic, dict[str, int]]:
    """What the report says of a scan of outer products, how many heads share keys, and how many values there are; of
    its keys how many run at once, and in how many parts.
    """
    found = next(c for c in classify(program(spec, SETTINGS).graph).values() if c.kind == "chunked")
    sizes = found.scan.type.sizes
    heads = {n: sizes[n] for n in found.heads}
    queries = set(found.reads[0].query.names)
    shared = {n: size for n, size in heads.items() if n not in queries}
    counts = {"shared": 1, "values": 1, "keys": 1}
    for name, axes in (("shared", shared), ("values", dict.fromkeys(found.value)), ("keys", dict.fromkeys(found.key))):
        for axis in axes:
            counts[name] *= sizes[axis]
    counts["parts"], counts["keys"] = key_parts(counts["keys"])
    values = {*inside(found), found.scan, *(r.value for r in found.reads)}
    return outer_traffic(found, values, counts["parts"]), counts


def test_the_chunked_scan_moves_what_the_report_says_but_shares_keys_through_the_cache() -> None:
    """RetNet's 256 keys run in two parts, each of which reads all values and gives a result. Its decay is a weight."""
    found, (traffic, counts) = started("retnet", "chunked_forward"), outer("retnet")
    c = found.launch.constants
    got = moved(found, "BV", (1 / c["Q"],))
    slices = counts["values"] / c["BV"]
    assert got.pop("xs 1") / slices == 4 / counts["values"]
    assert got.pop("pos") == 8 / c["BV"]
    keys = sum(got.pop(name) / slices for name in ("k", "q"))
    told = traffic.forward / counts["parts"] - sum(got.values())
    assert got.keys() == {"xs 0", "Y"}
    assert keys / counts["shared"] == pytest.approx(told)


def test_the_chunked_scan_going_back_writes_shares_of_the_gradients_of_keys() -> None:
    """Each head and slice of the values leaves its own, [keys] instead of [keys] by all heads that share them."""
    _, counts = outer("retnet")
    for kernel, name in (("chunked_backward_queries", "DQ"), ("chunked_backward_keys", "DK")):
        found = started("retnet", kernel)
        c = found.launch.constants
        got = moved(found, "BV", (1 / c["Q"],))
        assert got.pop(name) == 2 * counts["keys"] / c["BV"]
        assert got.pop("SHARES", 0.0) + got.pop("shares", 0.0) == 4 / c["BV"]  # written by one, read by the other
        assert got.pop("xs 1") == 4 / c["BV"]
        assert got.pop("pos") == 8 / c["BV"]
        assert got.pop("k") + got.pop("q") == 2 * 2 * counts["keys"] / c["BV"]
        if name == "DK":
            assert got.pop("DXS 0") == 2
            assert got.pop("DXS 1") == 4 / c["BV"]
        assert got == {"xs 0": 2, "dy": 2}  # each of the two passes reads them


def test_gates_around_a_chunked_scan_move_what_the_report_says() -> None:
    """u, z and one step dt of a head, which every slice of the values reads; what is read out stays, for the gate."""
    found, (_, counts) = started("mamba2", "chunked_forward"), outer("mamba2")
    c = found.launch.constants
    got = moved(found, "BV", (1 / c["Q"],))
    slices = counts["values"] / c["BV"]
    assert got.pop("pos") == 8 / c["BV"]
    of_a_head = sum(got.pop(name) / slices for name in ("k", "q")) / counts["shared"] + got.pop("xs 2") / slices
    assert got == {"xs 0": 2, "xs 1": 2, "Y": 2, "READS": 2}
    assert sum(got.values()) + of_a_head == pytest.approx(reported("mamba2").forward)


def test_gates_around_a_chunked_scan_going_back_move_what_the_report_says_twice() -> None:
    """Both passes read the tokens and the gradient of the result, which the second needs twice; a pass of its own is
    nothing that an equation causes.
    """
    _, counts = outer("mamba2")
    total: Counter[str] = Counter()
    for kernel in ("chunked_backward_queries", "chunked_backward_keys"):
        found = started("mamba2", kernel)
        c = found.launch.constants
        slices = counts["values"] / c["BV"]
        total.update({name: each / slices for name, each in moved(found, "BV", (1 / c["Q"],)).items()})
    assert total.pop("pos") == 2 * 8 / counts["values"]
    assert total.pop("SHARES") == total.pop("shares") == 4 / counts["values"]
    assert total.pop("DQ") == total.pop("DK") == 2 * counts["keys"] / counts["values"]
    keys = (total.pop("k") + total.pop("q")) / 2 / counts["shared"]
    whole = {name: each * slices for name, each in total.items() if name not in ("xs 2", "DXS 2")}
    assert whole == {"xs 0": 4, "xs 1": 4, "dy": 6, "reads": 2, "DXS 0": 2, "DXS 1": 2}
    assert total["xs 2"] / 2 == 2 / counts["values"]
    assert total["DXS 2"] == 4 / counts["values"]  # a share of each slice, in single precision
    once = 2 + 2 + 2 + whole["reads"] + whole["DXS 0"] + whole["DXS 1"]
    assert once + 2 * (keys + 2 / counts["values"]) == pytest.approx(reported("mamba2").backward)


def test_a_normaliser_moves_a_number_for_each_head() -> None:
    """The values, of which nothing else is made; what is read out and the normaliser stay, the way back reads them."""
    found, traffic = started("linear_transformer", "chunked_forward"), reported("linear_transformer")
    c = found.launch.constants
    assert c["BV"] == 64  # all values of a head in one program
    got = moved(found, "BV", (1 / c["Q"],))
    assert got.pop("pos") == 8 / c["BV"]
    assert got == {"xs 0": 2, "k": 2, "q": 2, "Y": 2, "READS": 2, "NORMS": 4 / c["BV"]}
    assert sum(got.values()) == pytest.approx(traffic.forward)
    total: Counter[str] = Counter()
    for kernel in ("chunked_backward_queries", "chunked_backward_keys"):
        found = started("linear_transformer", kernel)
        total.update(moved(found, "BV", (1 / found.launch.constants["Q"],)))
    assert total.pop("pos") == 2 * 8 / c["BV"]
    assert total.pop("SHARES") == total.pop("shares") == 4 / c["BV"]
    assert total == {
        "xs 0": 4, "k": 4, "q": 4, "dy": 4, "reads": 4, "norms": 2 * 4 / c["BV"], "DQ": 2, "DK": 2, "DXS 0": 2
    }  # fmt: skip
    once = sum(each if name.isupper() else each / 2 for name, each in total.items())
    assert once == pytest.approx(traffic.backward)


def of_chunks(found: Launched) -> dict[str, float]:
    """Bytes by argument per token, stores in capitals: of the loop over chunks, or of that over tokens inside of it if
    only that has them; what both load comes from the cache there.
    """
    total: dict[str, float] = {}
    for each in accesses(found.launch, 90):
        if each.loops:
            name = each.argument.upper() if each.stores else each.argument
            often = 1 if len(each.loops) == 2 else 1 / found.launch.constants["Q"]
            total[name] = max(total.get(name, 0), each.bytes * often)
    assert total.pop("pos") == 8
    return total


def test_a_decay_per_key_and_its_gates_move_what_the_report_says() -> None:
    """GLA's 256 keys run in two parts, each of which reads the values and gives a result; slices share keys."""
    found = started("rwkv6", "chunked_key_forward")
    c = found.launch.constants
    got = of_chunks(found)
    assert got == {name: 2 * c["BV"] for name in ("xs 0", "xs 1", "xs 2", "xs 3", "Y")}
    assert sum(got.values()) / c["BV"] == reported("rwkv6").forward
    found = started("gla", "chunked_key_forward")
    c, sizes = found.launch.constants, fused("gla").scan.type.sizes
    got = of_chunks(found)
    slices = sizes["value"] // c["BV"]
    of_values, of_keys = got.pop("xs 0") + got.pop("Y"), sum(got.values())
    assert c["PARTS"] * (slices * of_values + of_keys) / sizes["value"] == reported("gla").forward


def test_a_decay_per_key_and_its_gates_going_back_move_what_the_report_says_and_dq() -> None:
    """The gradient of the queries is written by one pass, which reads what it needs for that, and read by the other."""
    found = started("rwkv6", "chunked_key_backward_queries")
    c = found.launch.constants
    got = of_chunks(found)
    assert got.pop("DQ") == 4 * c["BK"]
    assert got == {name: 2 * c["BV"] for name in ("xs 0", "xs 2", "xs 3", "dy")}
    got = of_chunks(started("rwkv6", "chunked_key_backward_keys"))
    assert got.pop("dq") == 4 * c["BK"]
    assert got.keys() == {"dy", *(f"{name} {i}" for name in ("xs", "DXS") for i in range(4))}
    assert sum(got.values()) / c["BV"] == reported("rwkv6").backward
