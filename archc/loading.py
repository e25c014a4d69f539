"""A compiled project as a model in this process: its files in a temporary folder, its modules under private names."""

from __future__ import annotations

import atexit
import itertools
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from types import FunctionType, ModuleType
from typing import Any, Literal

from archc.emit.artifact import Artifact
from archc.emit.write import write
from archc.exchange.safetensors import Tensor

_number = itertools.count()


def instantiate(
    artifacts: Sequence[Artifact],
    backend: Literal["torch", "flax"],
    seed: int,
    weights: Mapping[str, Tensor] | None = None,
) -> Any:
    """The `Model` of a project with its initial weights drawn from the seed; global random state stays as it was.

    `weights`, by their names in checkpoints, are taken instead: none is drawn, and each is read once and converted to
    the type that the model has.
    """
    if backend == "torch":
        import torch

        module = import_project(artifacts, "model")["model"]
        if weights is not None:
            with torch.device("meta"):
                model = module.Model()
            _fill_torch(model, weights)
            return model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return module.Model()
    from flax import nnx

    if weights is None:
        return import_project(artifacts, "model")["model"].Model(rngs=nnx.Rngs(seed))
    modules = import_project(artifacts, "model", "stacks")
    model = nnx.eval_shape(lambda: modules["model"].Model(rngs=nnx.Rngs(seed)))
    _fill_flax(model, modules["stacks"], weights)
    return model


def _fill_torch(model: Any, weights: Mapping[str, Tensor]) -> None:
    import torch

    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    filled = {}
    for name, value in model.state_dict().items():
        bits = weights[name].read()
        whole = torch.from_numpy(bits.view(f"<i{bits.itemsize}").copy())
        filled[name] = whole.view(kinds[weights[name].element]).to(value.dtype)
    model.load_state_dict(filled, assign=True)


def _fill_flax(model: Any, stacks: ModuleType, weights: Mapping[str, Tensor]) -> None:
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
    filled = {}
    for path, value in stacks.parameters(model).items():
        parts = [weights[name] for name in stacks.names_of(path)]
        arrays = [np.asarray(part.read()).view(kinds[part.element]) for part in parts]
        filled[path] = jnp.asarray(np.stack(arrays) if stacks.is_stacked(path) else arrays[0], value.dtype)
    nnx.update(model, stacks.as_state(filled))


def import_project(artifacts: Sequence[Artifact], *files: str) -> dict[str, ModuleType]:
    """Imports files of a project and all they import from it: every module by the name that it has there
    ("kernels.scan"). Each call makes modules of its own.

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
        for file in files:
            import_module(file)
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
