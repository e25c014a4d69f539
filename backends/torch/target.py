"""The PyTorch backend as the emitter sees it."""

from __future__ import annotations

from collections.abc import Sequence

from archc.backends.torch.shape import TorchShape

from archc.emit.header import KERNELS, imported_kernels
from archc.emit.module import Module, Shape
from archc.emit.project import Backend


class TorchTarget:
    """See `archc.emit.project.Target`."""

    name: Backend = "torch"
    shape: Shape = TorchShape()
    kernels = KERNELS
    framework = "PyTorch"
    requirements = "torch safetensors numpy grain tokenizers pydantic tensorboard tqdm pytest"

    def imports(self, module: Module, used: Sequence[str]) -> list[str]:
        """The imports that lines of text need."""
        text = "\n".join(used)
        lines: list[str] = []
        if "math." in text:
            lines += ["import math", ""]
        lines.append("import torch")
        if "F." in text:
            lines.append("import torch.nn.functional as F")
        lines.append("from torch import nn")
        if "checkpoint(" in text:
            lines.append("from torch.utils.checkpoint import checkpoint")
        return [*lines, "", *imported_kernels(module, KERNELS)]
