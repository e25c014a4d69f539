"""A declarative architecture compiler: equations of one token in, PyTorch and Flax code and exact costs out."""

from archc.api import check, compile, export_hf, import_hf, import_pattern, load, parse, report
from archc.diagnostics import ArchError
from archc.version import VERSION

__all__ = [
    "ArchError",
    "check",
    "compile",
    "export_hf",
    "import_hf",
    "import_pattern",
    "load",
    "parse",
    "report",
]
__version__ = VERSION
