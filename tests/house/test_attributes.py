"""The names that modules of the frameworks have already are not given to weights."""

from __future__ import annotations

import torch
from flax import nnx

from archc.elaborate.attributes import MODULES


def test_every_attribute_of_the_frameworks_modules_is_reserved() -> None:
    have = {*dir(torch.nn.Module()), *dir(nnx.Module)}
    assert {name.rstrip("_") for name in have if not name.startswith("_")} <= MODULES
