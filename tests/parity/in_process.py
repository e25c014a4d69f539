"""Runs what is emitted for a program in this process: nothing is written, nothing laid out, kernels are read once."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from functools import cache
from importlib import import_module, util
from pathlib import Path
from types import ModuleType

from archc import api
from archc.elaborate import Program
from archc.emit.project import model_code


def model_module(program: Program, backend: api.Backend) -> ModuleType:
    """The model.py of a program; the last one of a backend is shown in tracebacks."""
    texts = model_code(program, api._target(backend), 64)
    modules: dict[str, ModuleType] = {}
    for file in ("gates_triton.py", "gates.py", "model.py"):
        if file in texts:
            name = file.removesuffix(".py")
            modules[name] = ModuleType(f"{name}_drawn_for_{backend}")
            run(modules[name], texts[file], backend, modules)
    return modules["model"]


def run(module: ModuleType, text: str, backend: api.Backend, others: Mapping[str, ModuleType]) -> None:
    """Runs the text of a module that imports kernels and others."""
    file = f"<{module.__name__}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    with _standing_for({**_kernels(backend), **others}):
        exec(compile(text, file, "exec"), vars(module))


@cache
def _kernels(backend: api.Backend) -> Mapping[str, ModuleType]:
    """The kernels of a backend by the names that emitted code imports them by."""
    folder = Path(import_module(f"archc.backends.{backend}.kernels").__file__ or "").parent
    names = [f"kernels.{path.stem}" for path in folder.glob("[!_]*.py")]
    spec = util.spec_from_file_location("kernels", folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None
    with _standing_for({"kernels": util.module_from_spec(spec)}):
        return {"kernels": sys.modules["kernels"], **{name: import_module(name) for name in names}}


@contextmanager
def _standing_for(modules: Mapping[str, ModuleType]) -> Iterator[None]:
    """Inside, `kernels` and what is below it are these modules and no others; afterwards they are what they were."""
    names = {"kernels", *modules}
    before = _taken_out(names)
    sys.modules.update(modules)
    try:
        yield
    finally:
        _taken_out(names)
        sys.modules.update(before)


def _taken_out(names: Set[str]) -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in list(sys.modules) if {name, name.partition(".")[0]} & names}
