"""The PyTorch project that tests only read."""

from pathlib import Path

import pytest

from tests.training.project import Backend, Project, lay_out


@pytest.fixture(scope="session")
def backend() -> Backend:
    return "torch"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Project:
    """Trained for 30 steps."""
    project = lay_out(tmp_path_factory.mktemp("trained"), "torch", cache)
    project.trained("--steps", 30)
    return project
