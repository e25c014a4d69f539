"""The Triton kernels compiled for GPUs that are not there: nothing spills, all fits, and no instruction too many."""

import re

import pytest
from archc.backends.torch.resources import CHIPS, Resources, compiled, loop_length, resident, resources
from kernels.gated_tiles import MANY, SPAN, tile_of

from tests.kernels.triton.shipped import launches, recorded

LAUNCHES = launches()
CASES = pytest.mark.parametrize(("name", "arch"), LAUNCHES, ids=[f"{name}, sm_{arch}" for name, arch in LAUNCHES])


def found(name: str, arch: int) -> Resources:
    return resources(LAUNCHES[name, arch], arch)


@CASES
def test_nothing_spills_and_the_program_fits(name: str, arch: int) -> None:
    got = found(name, arch)
    assert got.stack == 0
    assert 16 < got.registers <= 255
    assert got.shared <= CHIPS[arch].shared
    assert got.programs * LAUNCHES[name, arch].warps >= 8


@CASES
def test_an_element_costs_the_instructions_that_it_did(name: str, arch: int) -> None:
    """Within a tenth of the table; versions 3.6 to 3.9 of Triton are."""
    assert found(name, arch).per_element == pytest.approx(recorded()[f"{name}, sm_{arch}"]["per_element"], rel=0.1)


@CASES
def test_a_sequence_begins_at_an_offset_of_64_bits(name: str, arch: int) -> None:
    """Products with the number of tokens would pass 2^31; those of the tokens and channels of a piece stay below."""
    code = compiled(LAUNCHES[name, arch], arch).asm["ttir"]
    wide = re.findall(r"(%\S+) = arith.extsi %T\b.* : i32 to i64", code)
    assert any(re.search(rf"arith.muli .*{re.escape(each)} .*: i64", code) for each in wide)
    assert not re.search(r"arith.muli .*%T\b.* : i32", code)


@pytest.mark.parametrize("arch", [75, 80, 90, 103])
def test_every_chip_has_tiles_that_begin_with_a_kept_state(arch: int) -> None:
    for programs in (0, MANY):
        assert tile_of("backward", arch, programs).tokens % SPAN == 0
        assert SPAN % tile_of("forward", arch, programs).steps == 0
        assert tile_of("pieces", arch, programs).segments > 1


def test_a_multiprocessor_holds_what_registers_memory_and_warps_allow() -> None:
    """Against figures of NVIDIA's occupancy calculator."""
    assert resident(90, 255, 0, 8) == 1
    assert resident(90, 32, 0, 1) == 32
    assert resident(90, 32, 0, 4) == 16
    assert resident(80, 64, 0, 8) == 4
    assert resident(80, 32, 81920, 4) == 2
    assert resident(90, 32, 232448, 4) == 1
    assert resident(80, 32, 232448, 4) == 0


def test_the_largest_loop_is_counted() -> None:
    line = "        /*0010*/                   MOV R1, c[0x0][0x28] ;"
    inner = [".L_x_1:", line, line, "        /*0030*/              @P0 BRA `(.L_x_1) ;"]
    outer = [line, ".L_x_0:", line, *inner, "        /*0040*/              @P1 BRA `(.L_x_0) ;", line]
    assert loop_length("\n".join(outer)) == 5
    assert loop_length("\n".join([line, line])) == 2
