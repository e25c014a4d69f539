"""Emitted models whose attention composes heads, through its kernels: values and gradients are the reference's."""

import pytest

from archc.diagnostics import Source
from archc.elaborate import elaborate, load
from archc.specs_index import program
from tests.fuse.compositions import KINDS, drawn
from tests.fuse.conftest import mixer_text
from tests.kernels.triton.interpreted.test_drawn import launches  # noqa: F401 (a fixture)
from tests.parity.agreement import check_torch

CASES = ("a fn of pairs with weights of its own", "a fn that lifts tokens, in a fn")


def test_a_model_with_local_and_global_layers_means_the_same_as_kernels(launches: list[str]) -> None:  # noqa: F811
    check_torch(program("dcpythia:tiny", {"depth": 2}))
    assert any("back" in started for started in launches)


@pytest.mark.parametrize("name", [*CASES, "drawn 9"])
def test_an_emitted_composition_means_the_same_as_kernels(name: str, launches: list[str]) -> None:  # noqa: F811
    text = drawn(int(name.split()[1])) if name.startswith("drawn") else KINDS[name]
    check_torch(elaborate(load(Source("spec.arch", mixer_text(*text)), None)))
    assert any("back" in started for started in launches)
