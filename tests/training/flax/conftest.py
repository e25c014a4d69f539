"""The Flax project that tests only read, and its model without arrays."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from flax import nnx

from tests.training.project import Backend, Project, lay_out


@pytest.fixture(scope="session")
def backend() -> Backend:
    return "flax"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Project:
    """Trained for 12 steps."""
    project = lay_out(tmp_path_factory.mktemp("trained"), "flax", cache)
    project.trained()
    return project


@pytest.fixture
def blank(load: Callable[[str], ModuleType]) -> nnx.Module:
    """The model of the project without values."""
    return nnx.eval_shape(lambda: load("model").Model(rngs=nnx.Rngs(0)))
