"""One token of attention with composed heads in Triton's interpreter, against the program in double precision."""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from kernels.composed import composed_attention
from kernels.composed_tiles import Sizes, token_tile
from kernels.pairs import Keys, over_rows
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from tests.kernels.triton.interpreted.test_composed import SCALE, Attention, Case, attention
from tests.kernels.triton.quick import quick  # noqa: F401 (a fixture)


class Rings(NamedTuple):
    """How many slots they have, how many of them are here, and where in their documents the tokens stand."""

    width: int
    used: int
    places: tuple[int, int]

    @property
    def keys(self) -> Keys:
        return Keys(torch.tensor(self.places)[:, None], self.used, self.width)


FULL, WRAPPED = Rings(37, 37, (36, 4)), Rings(9, 9, (8, 32))
PADDED, SHORT = Rings(40, 23, (-1, 22)), Rings(6, 3, (0, 2))
CASES = [
    (FULL, Case(1, heads=3), "dynamic", "dynamic"),
    (WRAPPED, Case(1, heads=5), "static", "shared"),
    (WRAPPED, Case(1, heads=3, window=4), "dynamic", "static"),
    (PADDED, Case(1, heads=1, dim=9, value=2), None, "shared"),
    (PADDED, Case(1, heads=4), "shared", None),
    (SHORT, Case(1, heads=2), "dynamic", "dynamic"),
]


def one_token(rings: Rings, case: Case, before: str | None, after: str | None) -> Attention:
    """Attention whose keys are what rings hold."""
    return attention(replace(case, past=rings.used - 1), before, after)


def both(given: Attention, rings: Rings) -> tuple[Tensor, Tensor]:
    """From the kernel, and from the program."""

    def never(_: object) -> Tensor:
        raise AssertionError("there is a kernel")

    plain = over_rows(given.program, rings.keys)
    with torch.no_grad():
        mine = composed_attention(
            never, given.composed, *given.qkv, rings.keys, tokens=tuple(given.tokens), weights=tuple(given.weights),
            scale=SCALE, before=given.case.before,
        )  # fmt: skip
    return mine, plain


@pytest.mark.parametrize(("rings", "case", "before", "after"), CASES, ids=str)
def test_a_token_is_exact(rings: Rings, case: Case, before: str | None, after: str | None) -> None:
    given = one_token(rings, case, before, after)
    mine, plain = both(given, rings)
    torch.testing.assert_close(mine, plain, rtol=1e-9, atol=1e-9)
    assert [bool(y.any()) for y in mine] == [place >= 0 for place in rings.places]


def test_a_token_is_computed_in_single_precision() -> None:
    given = one_token(FULL, Case(1, dtype=torch.bfloat16), "dynamic", "dynamic")
    mine, _ = both(given, FULL)
    _, plain = both(given.wide(), FULL)
    assert mine.dtype == torch.bfloat16
    assert (mine.double() - plain).norm() < torch.finfo(torch.bfloat16).eps * plain.norm()


def test_slots_that_are_empty_are_not_read() -> None:
    given = one_token(FULL, Case(1), "dynamic", "static")
    empty = torch.tensor(FULL.places)[:, None] < torch.arange(FULL.width)
    wanted, _ = both(given, FULL)
    for x in (*given.qkv[1:], *(x for x in given.tokens if x.shape[1] == FULL.width)):
        x.detach()[empty] = torch.nan
    found, _ = both(given, FULL)
    assert torch.equal(found, wanted)


def test_a_gradient_takes_the_program() -> None:
    given = one_token(SHORT, Case(1, heads=2), "dynamic", None)
    y = composed_attention(given.program, given.composed, *given.qkv, SHORT.keys, tokens=tuple(given.tokens), scale=1.0)
    assert y.requires_grad


def test_the_counter_sees_the_operations_of_the_program_for_a_token() -> None:
    counts = []
    with FakeTensorMode():
        given = one_token(FULL, Case(1), "dynamic", "dynamic")
        for run in (0, 1):
            with FlopCounterMode(display=False) as counter:
                both(given, FULL)[run]
                counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("heads", [1, 2, 8, 32, 128])
def test_programs_share_many_keys_and_sequences_have_one_each(heads: int) -> None:
    sizes = Sizes(heads, 80, 80, 2)
    few, many = token_tile(sizes, 4096, 1, 90), token_tile(sizes, 4096, 300, 90)
    assert few.splits == 32
    assert many.splits == token_tile(sizes, 100, 1, 90).splits == 1
    assert heads * few.keys * few.slice <= few.warps * 2048
    assert few.keys >= 16
