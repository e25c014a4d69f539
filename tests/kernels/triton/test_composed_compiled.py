"""Attention with composed heads compiled for GPUs that are not there: what fits, and how much spills."""

import re
from functools import cache

import pytest

pytest.importorskip("triton")

import kernels.composed_launch as launch
import triton.language as tl
from archc.backends.torch.chips import CHIPS
from archc.backends.torch.launches import Shape, launched
from archc.backends.torch.machine_code import Launch, compiled, resources
from kernels.composed import Composed
from kernels.composed_tiles import BLOCKS, HEADS, MOST_HEADS, SHARED, Sizes, fits, parts_of, tile_of

from archc.api import compile
from archc.loading import import_project
from tests.kernels.triton.compositions import MIXES, RANK

# The allowance, by heads and columns of one: loads and stores of a thread's loop for want of registers, of 2,200
# instructions and more, and bytes of its stack. Up to 16 heads less than one in a hundred, which 1 to 8 of 128 columns
# need on Blackwell. The sums of 32 heads take a register a thread for each column, beside two tiles of pairs and the
# planes; half of the columns would not spill, but compute every pair twice. With more than 32 heads parts of pairs come
# from memory, and only sums for keys spill.
SPILLS = {(32, 80): (16, 64), (32, 128): (60, 184)}
FEW = 23, 112
LAID = 512
CASES = [(32, 128, 90, ("values", "keys")), (32, 80, 80, ("queries",)), (2, 128, 100, ("keys",))]
CASES += [(16, 64, 90, ("queries",)), (16, 64, 100, ("values back",))]


def composed_launches(
    composed: Composed, planes: tuple[launch.Planes, launch.Planes], heads: int, sizes: Sizes, arch: int
) -> dict[str, Launch]:
    """Every pass over packed documents in bfloat16, at its tile; planes: as the kernels are told them, of what is read
    before the softmax and after it.
    """
    x, single, count = "*bf16", "*fp32", "i32"
    types: dict[str, str | tuple[str, ...]] = {
        **dict.fromkeys(("q", "k", "v", "dy", "y", "dq", "dx"), x), **dict.fromkeys(("lse", "delta"), single),
        **dict.fromkeys(("T", "S", "WINDOW"), count), "pos": "*i32", "ends": "*i32",
    }  # fmt: skip
    names = ("q_tokens", "k_tokens", "weights"), ("q_after", "k_after", "w_after")
    shares = ("q_shares", x), ("k_shares", x), ("w_shares", single)
    for arguments, read in zip(names, planes, strict=True):
        types |= {name: (x,) * (len(each) // 3) for name, each in zip(arguments, read, strict=True)}
    constants = launch.constants_of(composed, planes, heads, sizes, packed=True, backward=True)
    constants |= {"SCALE": 0.125, "DOT": tl.bfloat16, "ACC": tl.float32}
    found = {}
    for name, kernel in launch.PASSES.items():
        last = name in ("queries", "keys")
        tile = launch.tile_of(name, sizes, arch)
        ahead = last and launch.finds_ahead(composed, sizes)
        told = {**constants, **tile.constants, "LAST": last, "AHEAD": ahead, **({} if last else {"dq": None})}
        own = zip(shares, planes[0 if last else 1], strict=True)
        given = types | {share: (of,) * (len(each) // 3) for (share, of), each in own}
        passed = {each: given[each] for each in kernel.arg_names if each not in told}
        found[name] = Launch(
            kernel,
            passed,
            {each: told[each] for each in kernel.arg_names if each in told},
            frozenset(place for i, each in enumerate(kernel.arg_names) for place in _arrays(i, passed.get(each, ()))),
            {"num_warps": tile.warps, "num_stages": 1},
        )
    return found


def _arrays(place: int, kind: str | tuple[str, ...]) -> list[tuple[int, ...]]:
    """The places of addresses among the arguments."""
    if isinstance(kind, str):
        return [(place,)] if kind.startswith("*") else []
    return [(place, i) for i in range(len(kind))]


@cache
def launches(heads: int, dim: int, arch: int) -> dict[str, Launch]:
    """Composed as in DCFormer, before the softmax and after it."""
    tokens = (RANK, heads, 0, RANK, heads, RANK, 1, heads, 2 * RANK)
    composed = Composed("compiled", MIXES["dynamic"](heads), MIXES["dynamic"](heads))
    planes = tokens, tokens, ()
    return composed_launches(composed, (planes, planes), heads, Sizes(heads, dim, dim, 2), arch)


EACH = [(heads, dim, arch, name) for heads, dim, arch, names in CASES for name in names]


@pytest.mark.parametrize(("heads", "dim", "arch", "name"), EACH)
def test_the_program_fits_and_little_spills(heads: int, dim: int, arch: int, name: str) -> None:
    one = launches(heads, dim, arch)[name]
    found = resources(one, arch)
    spills, stack = SPILLS.get((heads, dim), FEW)
    assert found.spills <= spills
    assert found.stack <= stack
    assert 16 < found.registers <= 255
    assert found.shared <= CHIPS[arch].shared
    assert found.programs >= 1


@pytest.mark.parametrize("name", ["laid_back_keys", "composed_token"])
def test_many_heads_fit(name: str) -> None:
    """Of which a tile of 16 queries and 16 keys would not; with a program for each sequence, where it has one query."""
    settings = {"width": 52 * 32, "depth": 2, "heads": 52, "hidden": 64, "vocab": 64}
    modules = import_project(compile("dcformer", backend="torch", settings=settings), "model")
    one = next(each.launch for each in launched(modules, Shape(300, 64), 90, "bf16") if each.launch.name == name)
    found = resources(one, 90)
    assert one.constants["HP"] == 64
    assert found.stack <= (LAID if name == "laid_back_keys" else 0)
    assert found.shared <= CHIPS[90].shared
    assert found.programs >= 1


def test_matrices_from_heads_to_heads_are_products() -> None:
    sizes = Sizes(launch.filled(12, True), 64, 64, 2)
    before, after = ((1, 1, 0), (), (0, 12, 0)), ((), (1, 1, 0), (2, 12, 0))
    composed = Composed("mixed", MIXES["static"](12), MIXES["shared"](12))
    one = composed_launches(composed, (before, after), 12, sizes, 90)["values"]
    found, tile = resources(one, 90), tile_of("values", sizes, 90)
    assert found.spills == found.stack == 0
    assert compiled(one, 90).asm["ttgir"].count("tt.dot") == 64 // tile.slice + 1 + len(tile.parts)


@pytest.mark.parametrize("name", ["values", "keys"])
def test_a_sequence_begins_at_an_offset_of_64_bits(name: str) -> None:
    """Products with the number of tokens would pass 2^31; those of a tile's tokens and sizes stay below."""
    code = compiled(launches(32, 128, 90)[name], 90).asm["ttir"]
    assert re.search(r"arith.extsi %T\b.* : i32 to i64", code)
    assert re.search(r"arith.extsi %S\b.* : i32 to i64", code)
    assert not re.search(r"arith.muli .*%[TS]\b.* : i32", code)


@pytest.mark.parametrize("arch", [80, 86, 89, 90, 100, 103, 120])
@pytest.mark.parametrize(
    "sizes", [Sizes(32, 256, 256, 2), Sizes(32, 80, 80, 4), Sizes(16, 128, 48, 2), Sizes(1, 64, 64, 2)]
)
def test_tiles_fit(sizes: Sizes, arch: int) -> None:
    assert fits(sizes.heads, arch)
    limit = CHIPS[{86: 89, 103: 100, 120: 89}.get(arch, arch)].shared
    for name in launch.PASSES:
        tile = tile_of(name, sizes, arch)
        own, others = (tile.keys, tile.queries) if name in launch.OF_KEYS else (tile.queries, tile.keys)
        assert min(others, tile.slice, *tile.parts) >= 16
        assert own >= 8
        step = sizes.heads * others * max(tile.parts[0], 2 * tile.slice) * sizes.bytes
        kept = sizes.heads * own * (sizes.dim + sizes.value * (name not in ("normalisers", "values"))) * sizes.bytes
        assert step < limit
        assert not tile.keep_rows or step + kept <= limit


@pytest.mark.parametrize("width", [16, 32, 64])
def test_parts_are_powers_of_two_that_cover_the_columns(width: int) -> None:
    for most in (16, 48, 64, 80, 128):
        for columns in range(1, 300):
            parts = parts_of(columns, most, width)
            programs = -(-columns // most)
            assert all(16 <= part <= width and part & (part - 1) == 0 for part in parts)
            assert list(parts) == sorted(parts, reverse=True)
            assert columns <= programs * sum(parts) < columns + programs * 16
            assert sum(parts) <= -(-most // 16) * 16


def test_more_heads_than_fit_and_older_chips_are_refused() -> None:
    assert max(BLOCKS) == HEADS
    assert not fits(MOST_HEADS + 1, 90)
    assert not fits(8, 75)
    assert {chip: SHARED[chip] for chip in (80, 90)} == {chip: CHIPS[chip].shared for chip in (80, 90)}
