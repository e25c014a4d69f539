"""The kernels of the shipped specs compiled for GPUs that are not there: nothing spills, all fits, no instruction too
many.

`python -m tests.kernels.triton.update` compiles every kernel of every spec for three chips, some minutes, and says what
is beyond its limits. Here that is done for what trains on Hopper, and for the chips before and after it on the way back
where a thread has more than half of the registers there are: kernels with room to spare have room on all. Triton keeps
what it compiled.
"""

import re

import pytest
from archc.backends.torch.chips import CHIPS, MOST_REGISTERS, resident
from archc.backends.torch.machine_code import compiled, largest_loop, resources

from tests.kernels.triton.shipped import ARCHS, launches, problems, recorded, with_kernels

TABLE = recorded()


def is_tested(name: str, spec: str, arch: int) -> bool:
    """Each kernel once, with the first spec that starts it."""
    row = TABLE[name]
    full = row["sm_90"]["registers"] > MOST_REGISTERS // 2
    return bool(row["spec"] == spec and row["use"] == "training" and (arch == 90 or (full and row["backward"])))


@pytest.mark.parametrize("spec", with_kernels())
def test_the_table_lists_what_a_spec_starts(spec: str) -> None:
    assert launches(spec, 90).keys() <= TABLE.keys()
    assert {name for name, row in TABLE.items() if row["spec"] == spec} <= launches(spec, 90).keys()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("spec", with_kernels())
def test_a_spec_s_kernels_stay_within_their_limits(spec: str, arch: int) -> None:
    """No spills, memory that the chip has, enough at a time; and instructions within a tenth of the table's."""
    names = [name for name in TABLE if is_tested(name, spec, arch)]
    found = {name: resources(launches(spec, arch)[name].launch, arch) for name in names}
    assert {name: what for name, each in found.items() if (what := problems(name, arch, each))} == {}
    wanted = {name: TABLE[name][f"sm_{arch}"]["per_element"] for name in names}
    assert {name: each.per_element for name, each in found.items()} == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize("name", TABLE)
def test_the_table_is_within_the_limits(name: str) -> None:
    from archc.backends.torch.machine_code import Resources

    for arch in ARCHS:
        assert problems(name, arch, Resources(**TABLE[name][f"sm_{arch}"])) == []


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
