"""The PyTorch backend as the emitter sees it."""

from __future__ import annotations

from collections.abc import Sequence
from re import search

from archc.backends.torch.gates import device_functions, device_names, plain_functions
from archc.backends.torch.shape import TorchShape

from archc.emit.gated import constant
from archc.emit.header import KERNELS, imported_gates, imported_kernels
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
        return [*lines, "", *imported_gates(module), *imported_kernels(module, KERNELS)]

    def gates(self, module: Module) -> dict[str, str]:
        """gates.py, on whole tensors, and gates_triton.py, for the kernels of a GPU."""
        if not module.gates:
            return {}
        plain = "\n\n\n".join(plain_functions(stem, fused) for stem, fused in module.gates.items())
        device = "\n\n\n".join(device_functions(stem, fused) for stem, fused in module.gates.items())
        return {"gates.py": _gates(plain, list(module.gates)), "gates_triton.py": _device(device)}


def _gates(text: str, stems: Sequence[str]) -> str:
    own = [name for name in ("fp32", "inv_softplus") if search(rf"\b{name}\b", text)]
    names = [f"{stem}_{part}" for stem in stems for part in ("device", "grad")]
    lines = [
        '"""The equations around the scans of the model, whole tensors at a time; on a GPU kernels take tiles."""',
        "",
        *(["import torch"] if search(r"\btorch\.", text) else []),
        *(["import torch.nn.functional as F"] if search(r"\bF\.", text) else []),
        "from kernels.gated import Gates",
        f"from kernels.numerics import {', '.join(own)}",
        "from kernels.operators import TRITON",
        "",
        "if TRITON:",
        f"    from gates_triton import {', '.join(sorted(names))}",
        "",
        "",
        text,
        "",
        "",
        "if TRITON:",
        *(f"    {constant(stem)} = Gates({stem}, {stem}_device, {stem}_grad)" for stem in stems),
        "else:",
        *(f"    {constant(stem)} = Gates({stem})" for stem in stems),
    ]
    return "\n".join(lines) + "\n"


def _device(text: str) -> str:
    used = device_names(text)
    lines = [
        '"""The equations around the scans of the model and their derivatives on tiles, as Triton functions."""',
        "",
        "import triton",
        "import triton.language as tl",
        *([f"from kernels.device import {', '.join(used)}"] if used else []),
        "",
        "",
        text,
    ]
    return "\n".join(lines) + "\n"
