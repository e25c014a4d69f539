"""The kernels of the shipped specs compiled for GPUs that are not there: nothing spills, all fits, and no
instruction too many.

`python -m tests.kernels.triton.update` compiles every kernel of every spec for three chips, some minutes, and says what
is beyond its limits; the table that it writes is held against them here. Compiled here are the kernels that train, each
with each of its equations once, in the sizes that take most registers: all of them for Hopper, for the chips before and
after it those that take three quarters of the registers there are. Triton keeps what it compiled.
"""

import re
from typing import Any

import pytest
from archc.backends.torch.chips import CHIPS, MOST_REGISTERS, resident
from archc.backends.torch.machine_code import Resources, compiled, largest_loop, resources

from archc.specs_index import shipped
from tests.kernels.triton.shipped import ARCHS, launches, problems, recorded

Row = dict[str, Any]
TABLE = recorded()
MANY = 3 * MOST_REGISTERS // 4


def chosen(arch: int) -> dict[str, Row]:
    """What is compiled here for a chip."""
    rows = {name: row for name, row in TABLE.items() if f"sm_{arch}" in row and row["use"] == "training"}
    most: dict[str, str] = {}
    for name, row in rows.items():
        taken = row[f"sm_{arch}"]["registers"]
        first = name.partition(";")[0]
        kind = first if "_device" in first else first.partition(":")[0]  # with its equations, if it has any
        if taken > rows[most.setdefault(kind, name)][f"sm_{arch}"]["registers"]:
            most[kind] = name
    return {name: rows[name] for name in most.values() if arch == 90 or rows[name][f"sm_{arch}"]["registers"] >= MANY}


CHOSEN = {arch: chosen(arch) for arch in ARCHS}
CASES = sorted({(row["spec"], arch) for arch, rows in CHOSEN.items() for row in rows.values()})


@pytest.mark.parametrize(("spec", "arch"), CASES)
def test_the_kernels_of_a_spec_stay_within_their_limits(spec: str, arch: int) -> None:
    """No spills, memory that the chip has, enough at a time; and instructions within a tenth of the table.

    Each kernel once, with the first spec that starts it.
    """
    names = [name for name, row in CHOSEN[arch].items() if row["spec"] == spec]
    found = {name: resources(launches(spec, arch)[name].launch, arch) for name in names}
    assert [f"{name}: {what}" for name, each in found.items() for what in problems(arch, each)] == []
    wanted = {name: TABLE[name][f"sm_{arch}"]["per_element"] for name in names}
    assert {name: each.per_element for name, each in found.items()} == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize("spec", shipped())
def test_the_table_lists_what_a_spec_starts(spec: str) -> None:
    started = launches(spec, 90).keys()
    assert started <= {name for name, row in TABLE.items() if "sm_90" in row}
    assert {name for name, row in TABLE.items() if row["spec"] == spec and "sm_90" in row} <= started


def test_the_table_is_within_the_limits() -> None:
    """What is compiled here only when the table is written."""
    rows = [(name, arch, row.get(f"sm_{arch}")) for name, row in TABLE.items() for arch in ARCHS]
    beyond = ((name, what) for name, arch, each in rows if each for what in problems(arch, Resources(**each)))
    assert [f"{name}: {what}" for name, what in beyond] == []


LONG = ("scan_forward", "scan_backward", "scan_pieces", "conv_forward", "conv_backward")
"""Kernels whose programs have a piece of time, of which their offsets are 32 bits."""


@pytest.mark.parametrize("kernel", LONG)
def test_a_sequence_begins_at_an_offset_of_64_bits(kernel: str) -> None:
    """Products with the number of tokens would pass 2^31; those of the tokens and channels of a piece stay below."""
    found = next(each.launch for name, each in launches("griffin", 90).items() if name.startswith(kernel))
    code = compiled(found, 90).asm["ttir"]
    wide = re.findall(r"(%\S+) = arith.extsi %T\b.* : i32 to i64", code)
    assert any(re.search(rf"arith.muli .*{re.escape(each)} .*: i64", code) for each in wide)
    assert not re.search(r"arith.muli .*%T\b.* : i32", code)


def test_a_multiprocessor_holds_what_registers_memory_and_warps_allow() -> None:
    """Against figures of NVIDIA's occupancy calculator."""
    assert resident(90, 255, 0, 8) == (1, "registers")
    assert resident(90, 32, 0, 1) == (32, "programs")
    assert resident(90, 32, 0, 4) == (16, "warps")
    assert resident(80, 64, 0, 8) == (4, "registers")
    assert resident(80, 32, 81920, 4) == (2, "shared memory")
    assert resident(90, 32, 232448, 4) == (1, "shared memory")
    assert resident(80, 32, 232448, 4) == (0, "shared memory")
    assert all(resident(arch, MOST_REGISTERS, chip.shared, 8)[0] == 1 for arch, chip in CHIPS.items())


def test_the_largest_loop_is_counted() -> None:
    line = "        /*0010*/                   MOV R1, c[0x0][0x28] ;"
    inner = [".L_x_1:", line, line, "        /*0030*/              @P0 BRA `(.L_x_1) ;"]
    outer = [line, ".L_x_0:", line, *inner, "        /*0040*/              @P1 BRA `(.L_x_0) ;", line]
    assert len(largest_loop("\n".join(outer))) == 5
    assert largest_loop("\n".join([line, line])) == []
