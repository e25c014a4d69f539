"""Projects laid out for a test, and their modules in this process."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from tests.training.project import Backend, Project, lay_out


@pytest.fixture(scope="session", params=["torch", "flax"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Both, unless a folder says which."""
    found: Backend = request.param
    return found


@pytest.fixture(scope="session")
def cache() -> Iterator[Path]:
    """A folder for what XLA compiles, away from the projects: its path is in none of them."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def project(tmp_path: Path, backend: Backend, cache: Path) -> Project:
    """A fresh project."""
    return lay_out(tmp_path, backend, cache)


@pytest.fixture
def copied(trained: Project, tmp_path: Path) -> Project:
    """A project of one's own that is trained already."""
    shutil.copytree(trained.folder, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path, trained.backend, trained.cache)


@pytest.fixture
def load(trained: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import modules of an emitted folder into this process; forgotten afterwards, as their names are plain words."""
    emitted = {path.stem for path in trained.folder.glob("*.py")} | {"kernels"}

    def taken_out() -> dict[str, ModuleType]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in emitted}

    held = taken_out()
    monkeypatch.syspath_prepend(trained.folder)
    yield import_module
    taken_out()
    sys.modules.update(held)
