"""The PyTorch backend as the emitter sees it."""

from __future__ import annotations

from collections.abc import Sequence
from re import search

from archc.backends.torch.gates import (
    OWN,
    device_activation,
    device_functions,
    device_mixes,
    device_names,
    plain_activation,
    plain_functions,
)
from archc.backends.torch.shape import TorchShape

from archc.emit.code import call
from archc.emit.equations import row
from archc.emit.gated import constant
from archc.emit.header import KERNELS, imported_gates, imported_kernels, subject
from archc.emit.mixes import Mix, Mixes, function_names
from archc.emit.module import Module
from archc.emit.project import Backend
from archc.emit.texts import Shape
from archc.fuse.convs import FusedConv
from archc.fuse.fused_scan import OUTER, PER_HEAD, PER_KEY, PER_VALUE, FusedScan
from archc.fuse.parts import is_complex


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
        if not module.gates and not module.mixes:
            return {}
        device = [device_functions(stem, fused) for stem, fused in module.scans.items()]
        device += [device_activation(stem, fused) for stem, fused in module.convs.items()]
        device += [device_mixes(stem, found) for stem, found in module.mixes.items()]
        return {"gates.py": _gates(module), "gates_triton.py": _device(module, device)}


_CLASSES = {
    "complex": ("ComplexGates", "gated_complex"),
    "chunked": ("ChunkedGates", "chunked_gates"),
    "chunked_key": ("ChunkedKeyGates", "chunked_key_gates"),
    "diagonal": ("Gates", "gated"),
    "selective": ("SelectiveGates", "selective_gates"),
}
"""What holds the equations of a class of scans, or of complex ones, and the file of kernels/ that has it."""
OF = {PER_HEAD: "head", PER_VALUE: "value", PER_KEY: "key"}
"""What something is of that varies so."""


def _functions(stem: str, fused: FusedScan) -> list[str]:
    """The device functions of a scan."""
    parts = ["device", "grad", *(["out_device", "out_grad"] if fused.out is not None else [])]
    return [f"{stem}_{part}" for part in parts]


def _together(stem: str, fused: FusedScan, on_device: bool) -> str:
    """All functions of a scan in one object."""
    given = [stem]
    if fused.kind == "chunked":
        given += [repr(tuple(fused.room(h) == PER_VALUE for h in each)) for each in (fused.inputs, fused.weights)]
    if fused.kind == "chunked_key":
        given += [row([f'"{OF[fused.room(h)]}"' for h in each]) for each in (fused.inputs, fused.weights)]
    given += [f"{stem}_device", f"{stem}_grad"] if on_device else []
    if fused.out is not None:
        read = [f"{stem}_out", *([f"{stem}_out_device", f"{stem}_out_grad"] if on_device else [])]
        linear = ["linear=True"] if fused.reads_linearly and fused.kind == "diagonal" and on_device else []
        linear += ["needs_y=False"] if not fused.needs_read and fused.kind in OUTER and on_device else []
        given.append(f"read=Read({', '.join([*read, *linear])})")
    given += ["real=True"] if fused.is_complex and not is_complex(fused.result) else []
    given += ["before=True"] if fused.found.before else []
    given += ["bonus=True"] if fused.found.bonus else []
    given += ["normalised=True"] if fused.normaliser is not None else []
    return f"{constant(stem)} = {_CLASSES[_class(fused)][0]}({', '.join(given)})"


def _class(fused: FusedScan) -> str:
    return "complex" if fused.is_complex else fused.kind


def _activation(stem: str, fused: FusedConv, on_device: bool) -> str:
    """All functions of what follows a convolution in one object."""
    given = [stem, *([f"{stem}_device", f"{stem}_grad"] if on_device else [])]
    given += ["needs_total=False"] if not fused.needs_total and on_device else []
    return f"{constant(stem)} = Activation({', '.join(given)})"


def _composed(stem: str, mixes: Mixes, on_device: bool) -> str:
    """The compositions of a program in one object."""

    def one(mix: Mix) -> str:
        name = mixes.function(stem, mix)
        functions = [name, f"{name}_grad"] if on_device else []
        linear = {"linear": "True"} if on_device and mix.linear else {}
        return call("Mix", f'"{mix.sides}"', f'"{mix.shapes}"', str(mix.work), *functions, **linear).text

    given = [f'"{stem}"', *(f"{mix.place}={one(mix)}" for mix in mixes.found)]
    return f"{constant(stem)} = Composed({', '.join(given)})"


def _gates(module: Module) -> str:
    scans, convs, mixes = module.scans, module.convs, module.mixes
    texts = [plain_functions(stem, fused) for stem, fused in scans.items()]
    texts += [plain_activation(stem, fused) for stem, fused in convs.items()]
    text = "\n\n\n".join(texts)
    kinds = set(map(_class, scans.values()))
    behind = any(fused.out is not None for fused in scans.values())
    own = [name for name in OWN if search(rf"\b{name}\b", text)]
    classes = [f"from kernels.{file} import {name}" for kind, (name, file) in _CLASSES.items() if kind in kinds]
    names = [name for stem in scans for name in _functions(stem, scans[stem])]
    names += [f"{stem}_{part}" for stem in convs for part in ("device", "grad")]
    names += [name for stem in mixes for name in function_names(stem, mixes[stem])]
    fused, plain = (
        [_together(stem, found, on_device) for stem, found in scans.items()]
        + [_activation(stem, found, on_device) for stem, found in convs.items()]
        + [_composed(stem, found, on_device) for stem, found in mixes.items()]
        for on_device in (True, False)
    )
    elsewhere = (
        ", whole tensors at a time; on a GPU kernels take tiles" if module.gates else ", for the kernels of a GPU"
    )
    lines = [
        f'"""{subject(module)}{elsewhere}."""',
        "",
        *(["import torch"] if search(r"\btorch\.", text) else []),
        *(["import torch.nn.functional as F"] if search(r"\bF\.", text) else []),
        *sorted(
            [
                *classes,
                *(["from kernels.activation import Activation"] if convs else []),
                *(["from kernels.composed import Composed, Mix"] if mixes else []),
                *([f"from kernels.numerics import {', '.join(own)}"] if own else []),
                "from kernels.operators import TRITON",
                *(["from kernels.read_out import Read"] if behind else []),
            ]
        ),
        "",
        "if TRITON:",
        f"    from gates_triton import {', '.join(sorted(names))}",
        "",
        *(["", text, "", "", "if TRITON:"] if texts else []),
        *(f"    {line}" for line in fused),
        "else:",
        *(f"    {line}" for line in plain),
    ]
    return "\n".join(lines) + "\n"


def _device(module: Module, texts: Sequence[str]) -> str:
    text = "\n\n\n".join(texts)
    used = device_names(text)
    lines = [
        f'"""{subject(module)} and their derivatives on tiles, as Triton functions."""',
        "",
        "import triton",
        # the interpreter of Triton looks for it in any case
        "import triton.language as tl" + ("" if search(r"\btl\.", text) else "  # noqa: F401"),
        *([f"from kernels.device import {', '.join(used)}"] if used else []),
        "",
        "",
        text,
    ]
    return "\n".join(lines) + "\n"
