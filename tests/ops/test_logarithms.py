"""Logarithms of sums of exponentials, however the sum is written."""

from __future__ import annotations

import pytest

from archc.ops.node import Nodes, of
from archc.ops.simpler import SIMPLER


@pytest.mark.parametrize("first", [True, False])
def test_the_logarithm_of_an_exponential_and_1_is_a_softplus_in_either_order(first: bool) -> None:
    """`x + softplus(-x)` is the same number, but far below 0 it cancels, and so does its slope."""
    x = Nodes(lambda op, numbers: None, SIMPLER).leaf("x")
    assert of("log", 1 + of("exp", x) if first else of("exp", x) + 1) is of("softplus", x)
    assert of("pow", 1 + of("exp", x) if first else of("exp", x) + 1, 0.3) is of("exp", 0.3 * of("softplus", x))
