"""Where a run takes place: a GPU, or without one the CPU with Triton's interpreter, to see that the script runs."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
import triton

PACKAGES = ("torch", "triton", "fla-core", "mamba-ssm", "accelerated-scan", "causal-conv1d")


@dataclass(frozen=True)
class Place:
    """dry: nothing is measured, every shape is tiny. quick: fewer shapes and repetitions."""

    dry: bool
    quick: bool

    @property
    def device(self) -> torch.device:
        """Where tensors are."""
        return torch.device("cpu" if self.dry else "cuda")

    @property
    def name(self) -> str:
        """What the driver calls the device."""
        return "dry run" if self.dry else torch.cuda.get_device_name()

    def facts(self) -> dict[str, str | int | float]:
        """The device, the driver's version of CUDA, the interpreter and the packages."""
        found: dict[str, str | int | float] = {"device": self.name, "python": platform.python_version()}
        for package in PACKAGES:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                found[package] = "not installed"
        if not self.dry:
            seen = torch.cuda.get_device_properties(0)
            found |= {
                "cuda": str(torch.version.cuda),
                "capability": f"{seen.major}.{seen.minor}",
                "multiprocessors": seen.multi_processor_count,
                "memory_gib": round(seen.total_memory / 2**30, 1),
            }
        return found | {"triton": triton.__version__}

    @contextmanager
    def peak(self) -> Iterator[list[int]]:
        """Inside, memory is watched; afterwards the list has the bytes that were needed beyond those held before."""
        found: list[int] = []
        if self.dry:
            yield found
            found.append(0)
            return
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield found
        torch.cuda.synchronize()
        found.append(torch.cuda.max_memory_allocated() - held)
