"""The PyTorch backend as the emitter sees it."""

from __future__ import annotations

from collections.abc import Sequence

from archc.backends.torch.shape import TorchShape

from archc.emit.header import KERNELS, header_lines, imported_kernels
from archc.emit.module import Module, Shape
from archc.emit.project import Backend


class TorchTarget:
    """See `archc.emit.project.Target`."""

    name: Backend = "torch"
    shape: Shape = TorchShape()
    kernels = KERNELS
    framework = "PyTorch"
    requirements = "torch safetensors numpy grain tokenizers pydantic tensorboard tqdm pytest"

    def header(self, module: Module, used: Sequence[str]) -> list[str]:
        """The doc of the file and the imports that its text needs."""
        text = "\n".join(used)
        lines = header_lines(module)
        if "math." in text:
            lines += ["import math", ""]
        lines.append("import torch")
        if "F." in text:
            lines.append("import torch.nn.functional as F")
        lines.append("from torch import nn")
        if "checkpoint(" in text:
            lines.append("from torch.utils.checkpoint import checkpoint")
        return [*lines, "", *imported_kernels(module, KERNELS)]
