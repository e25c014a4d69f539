"""Make the kernel files importable as in an emitted project: as the package `kernels`."""

import sys
from importlib import util
from pathlib import Path

from archc.backends.torch import kernels as folder


def _install() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "kernels"]:
        del sys.modules[name]
    path = Path(folder.__path__[0])
    spec = util.spec_from_file_location("kernels", path / "__init__.py", submodule_search_locations=[str(path)])
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules["kernels"] = module
    spec.loader.exec_module(module)


_install()
