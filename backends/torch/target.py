"""The PyTorch backend as the emitter sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from re import search

from archc.backends.torch.gates import device_functions, device_names, plain_functions
from archc.backends.torch.shape import TorchShape

from archc.emit.gated import constant
from archc.emit.header import KERNELS, imported_gates, imported_kernels
from archc.emit.module import Module, Shape
from archc.emit.project import Backend
from archc.fuse.scans import FusedScan


class TorchTarget:
    """See `archc.emit.project.Target`."""

    name: Backend = "torch"
    shape: Shape = TorchShape()
    kernels = KERNELS | {"gated_selective_scan": "selective_scan.py"}
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
        return [*lines, "", *imported_gates(module), *imported_kernels(module, self.kernels)]

    def gates(self, module: Module) -> dict[str, str]:
        """gates.py, on whole tensors, and gates_triton.py, for the kernels of a GPU."""
        if not module.gates:
            return {}
        plain = "\n\n\n".join(plain_functions(stem, fused) for stem, fused in module.gates.items())
        device = "\n\n\n".join(device_functions(stem, fused) for stem, fused in module.gates.items())
        return {"gates.py": _gates(plain, module.gates), "gates_triton.py": _device(device)}


def _functions(stem: str, fused: FusedScan) -> list[str]:
    """The device functions of a scan."""
    parts = ["device", "grad", *(["out_device", "out_grad"] if fused.out is not None else [])]
    return [f"{stem}_{part}" for part in parts]


def _together(stem: str, fused: FusedScan, on_device: bool) -> str:
    """All functions of a scan in one object."""
    kind = "Gates" if fused.kind == "diagonal" else "SelectiveGates"
    given = [stem, *([f"{stem}_device", f"{stem}_grad"] if on_device else [])]
    if fused.out is not None:
        read = [f"{stem}_out", *([f"{stem}_out_device", f"{stem}_out_grad"] if on_device else [])]
        linear = ["linear=True"] if fused.reads_linearly and fused.kind == "diagonal" and on_device else []
        given.append(f"read=Read({', '.join([*read, *linear])})")
    return f"{constant(stem)} = {kind}({', '.join(given)})"


def _gates(text: str, gates: Mapping[str, FusedScan]) -> str:
    kinds = {fused.kind for fused in gates.values()}
    behind = any(fused.out is not None for fused in gates.values())
    own = [name for name in ("fp32", "inv_softplus") if search(rf"\b{name}\b", text)]
    names = [name for stem in gates for name in _functions(stem, gates[stem])]
    lines = [
        '"""The equations around the scans of the model, whole tensors at a time; on a GPU kernels take tiles."""',
        "",
        *(["import torch"] if search(r"\btorch\.", text) else []),
        *(["import torch.nn.functional as F"] if search(r"\bF\.", text) else []),
        *(["from kernels.gated import Gates"] if "diagonal" in kinds else []),
        f"from kernels.numerics import {', '.join(own)}",
        "from kernels.operators import TRITON",
        *(["from kernels.read_out import Read"] if behind else []),
        *(["from kernels.selective_gates import SelectiveGates"] if "selective" in kinds else []),
        "",
        "if TRITON:",
        f"    from gates_triton import {', '.join(sorted(names))}",
        "",
        "",
        text,
        "",
        "",
        "if TRITON:",
        *(f"    {_together(stem, fused, True)}" for stem, fused in gates.items()),
        "else:",
        *(f"    {_together(stem, fused, False)}" for stem, fused in gates.items()),
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
