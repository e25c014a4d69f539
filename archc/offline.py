"""The kernels of a compiled project for a machine that is not here: what compilers make of them."""

from __future__ import annotations

import os
from typing import Final, Literal

from archc.api import compile
from archc.backends.torch.chips import CHIPS
from archc.diagnostics import closest, error
from archc.loading import import_project
from archc.reports.compiled import Compiled, OfGpu, OfPallas, Row
from archc.runs import require
from archc.specs_index import Settings

PALLAS: Final[dict[str, Literal["tpu", "gpu"]]] = {"tpu": "tpu", "cuda": "gpu"}
"""Targets of the Flax project, and what JAX calls the machine."""
TARGETS = (*(f"sm_{arch}" for arch in CHIPS), *PALLAS)


def kernels(spec: str, target: str, settings: Settings, *, batch: int, seq: int, dtype: str) -> Compiled:
    """Every kernel that a model starts, as it starts it for `batch` sequences of `seq` tokens, compiled for a target.

    target: "sm_90" and others compile the Triton kernels of the PyTorch project; "tpu" and "cuda" lower the Pallas
    kernels of the Flax project. `ArchError` E613 for another target, E608 where the framework is not installed, E614
    if the model has no kernel there, and what is wrong with the spec.
    """
    if target not in TARGETS:
        raise error("E613", f"no target '{target}'", help=_instead(target))
    for framework in ("jax", "flax") if target in PALLAS else ("torch", "triton"):
        require(framework)
    found = _pallas if target in PALLAS else _triton
    rows = found(spec, target, settings, batch, seq, dtype)
    if not rows:
        help = "'archc compile --explain-kernels' says what runs its scans and sums over keys"
        raise error("E614", f"'{spec}' starts no kernel on {target}", help=help)
    return Compiled(spec, target, dtype, batch, seq, rows)


def _instead(target: str) -> str:
    """What else can be a target: one that looks like it, or all, the GPUs with what they are known as."""
    gpus = [f"sm_{arch} ({chip.known})" for arch, chip in CHIPS.items()]
    near = closest(target, TARGETS) if target.startswith("sm_") else ""
    return near or f"there are {', '.join([*gpus, *PALLAS])}"


def _triton(spec: str, target: str, settings: Settings, batch: int, seq: int, dtype: str) -> tuple[Row, ...]:
    artifacts = compile(spec, backend="torch", settings=settings)
    from archc.backends.torch.launches import Shape, launched
    from archc.backends.torch.machine_code import resources

    arch = int(target.removeprefix("sm_"))
    return tuple(
        OfGpu(
            use=each.use,
            unit=each.unit,
            kernel=each.launch.name,
            backward=each.backward,
            arguments=each.launch.arguments,
            grid=each.programs,
            **vars(resources(each.launch, arch)),
        )
        for each in launched(import_project(artifacts, "model"), Shape(batch, seq), arch, dtype)
    )


def _pallas(spec: str, target: str, settings: Settings, batch: int, seq: int, dtype: str) -> tuple[Row, ...]:
    artifacts = compile(spec, backend="flax", settings=settings)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing runs: whatever is plugged in need not be opened
    from archc.backends.flax.lowered import lowered

    found = lowered(import_project(artifacts, "model"), PALLAS[target], batch, seq, dtype)
    return tuple(OfPallas(**vars(each)) for each in found)
