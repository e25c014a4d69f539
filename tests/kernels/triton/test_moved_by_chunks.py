"""What scans of outer products move, in chunks: see `moved`."""

from collections import Counter

import pytest
from archc.backends.torch.kernels.chunk_sizes import key_parts
from archc.backends.torch.launches import Launched
from archc.backends.torch.moved import accesses

from archc.fuse.traffic import Traffic, outer_traffic
from archc.passes.scan_class import inside
from archc.passes.scans import classify
from archc.specs_index import program
from tests.kernels.triton.moved import fused, moved, reported, started
from tests.kernels.triton.shipped import SETTINGS


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
    assert [got.pop(f"ws {i}") for i in range(3)] == [4 / c["Q"] / c["BV"]] * 3  # a number, again in every chunk
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
    again = 4 * c["BK"] / c["Q"]  # weights of all keys, from the cache in every chunk
    assert [got.pop("ws 0"), got.pop("ws 1")] == [again] * 2
    assert got == {name: 2 * c["BV"] for name in ("xs 0", "xs 1", "xs 2", "xs 3", "Y")}
    assert sum(got.values()) / c["BV"] == reported("rwkv6").forward
    found = started("gla", "chunked_key_forward")
    c, sizes = found.launch.constants, fused("gla").scan.type.sizes
    got = of_chunks(found)
    slices = sizes["value"] // c["BV"]
    assert got.pop("ws 0") == 4 * c["BK"] / c["Q"]
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
