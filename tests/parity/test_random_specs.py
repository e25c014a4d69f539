"""Random well-typed specs, and the small ones that once went wrong: PyTorch, Flax and the reference agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.agreement import check_bfloat16, check_bytes, check_flax, check_torch, checked
from tests.parity.models import emitted
from tests.parity.random_specs import draw_well_typed

CASES = sorted((Path(__file__).parent / "cases").glob("*.arch"))
SEEDS = range(25)
FLAX_SEEDS = range(6)


@pytest.fixture(autouse=True)
def _forgotten_models() -> Iterator[None]:
    yield
    emitted.cache_clear()


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_what_once_went_wrong_holds(path: Path) -> None:
    program = checked(path.read_text(encoding="utf-8"))
    check_torch(program)
    check_bfloat16(program)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_spec_means_the_same_in_pytorch(seed: int) -> None:
    draw = draw_well_typed(seed)
    print(draw.text)  # shown where the test fails
    check_torch(draw.program)
    check_bfloat16(draw.program)


@pytest.mark.parametrize("seed", FLAX_SEEDS)
def test_a_random_spec_means_the_same_in_flax(seed: int) -> None:
    draw = draw_well_typed(seed)
    print(draw.text)
    check_flax(draw.program)


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_a_random_spec_is_emitted_in_one_way(seed: int) -> None:
    check_bytes(draw_well_typed(seed).text)


def test_few_draws_are_refused() -> None:
    assert sum(draw_well_typed(seed).refused for seed in SEEDS) <= len(SEEDS) / 2


def test_an_initial_value_of_the_layer_is_not_rounded() -> None:
    text = (Path(__file__).parent / "cases" / "initial_value_of_the_layer.arch").read_text(encoding="utf-8")
    model = emitted(checked(text), "torch").Model()
    assert [float(model.state_dict()[f"layers.{i}.mix.g"][0]) for i in (0, 1)] == [1, 0.5]


def test_a_fn_that_only_calls_what_it_is_handed_is_a_class_of_flax() -> None:
    text = (Path(__file__).parent / "cases" / "shared_fn_handed_on.arch").read_text(encoding="utf-8")
    check_bytes(text, ("flax",))
