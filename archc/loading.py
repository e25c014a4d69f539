"""A compiled project as a model in this process: its files in a temporary folder, its modules under private names."""

from __future__ import annotations

import atexit
import itertools
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from types import FunctionType, ModuleType
from typing import Any, Literal

from archc.emit.artifact import Artifact
from archc.emit.write import write

_number = itertools.count()


def instantiate(artifacts: Sequence[Artifact], backend: Literal["torch", "flax"], seed: int) -> Any:
    """The `Model` of a project with its initial weights drawn from the seed; global random state stays as it was."""
    module = import_project(artifacts)
    if backend == "torch":
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return module.Model()
    from flax import nnx

    return module.Model(rngs=nnx.Rngs(seed))


def import_project(artifacts: Sequence[Artifact]) -> ModuleType:
    """Imports `model.py` of a project and all it imports from the project; each call makes modules of its own."""
    return import_modules(artifacts)["model"]


def import_modules(artifacts: Sequence[Artifact]) -> dict[str, ModuleType]:
    """`model.py` and all it imports from the project, by the names that they have there ("kernels.scan").

    The files import one another by plain names (`from kernels.scan import scan`). While they are imported those names
    stand for them; then they get names of their own, and what stood there before is back. The files stay until the
    process ends, for tracebacks and `inspect`.
    """
    scratch = Path(mkdtemp(prefix="archc-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    folder = scratch / "project"
    write(artifacts, folder)
    names = {Path(a.path).parts[0].removesuffix(".py") for a in artifacts if a.path.endswith(".py")}
    with _alone(folder, names, f"archc_loaded_{next(_number)}"):
        import_module("model")
        return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}


@contextmanager
def _alone(folder: Path, names: set[str], private: str) -> Iterator[None]:
    """Inside, top-level `names` are imported from the folder; afterwards they are what they were."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names}
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] in names]:
            _rename(sys.modules.pop(name), f"{private}_{name}")
        sys.modules.update(before)


def _rename(module: ModuleType, name: str) -> None:
    """Files a module, and what it defines, under another name, so that pickling and `inspect` find them again."""
    for value in vars(module).values():
        if isinstance(value, type | FunctionType) and value.__module__ == module.__name__:
            value.__module__ = name
    module.__name__ = name
    sys.modules[name] = module
