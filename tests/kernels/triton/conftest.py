"""Make the kernel files importable as in an emitted project, as the package `kernels`, and the gates of these tests."""

import sys
from importlib import util
from pathlib import Path

from archc.backends.torch import kernels as folder


def _package(name: str, path: Path) -> None:
    for each in [each for each in sys.modules if each.partition(".")[0] == name]:
        del sys.modules[each]
    spec = util.spec_from_file_location(name, path / "__init__.py", submodule_search_locations=[str(path)])
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


_package("kernels", Path(folder.__path__[0]))
