"""Triton's interpreter for the functions of a test, in a process where Triton was imported to interpret."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from archc.backends.flax import kernels as flax_kernels
from archc.backends.torch import kernels as torch_kernels

from archc.reference.frame import Array

WORKER = Path(__file__).with_name("triton_worker.py")


class Worker:
    """Triton's interpreter in a process of its own."""

    def __init__(self, folder: Path) -> None:
        kernels = folder / "kernels"
        kernels.mkdir()
        (kernels / "device.py").write_text(kernel_file("torch", "device"), encoding="utf-8")
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def __call__(self, text: str, arrays: dict[str, Array]) -> dict[str, Array]:
        """What the functions of a text give for these arrays."""
        (self.folder / "gates.py").write_text(text, encoding="utf-8")
        np.savez(self.folder / "cases.npz", **{k: np.ascontiguousarray(a) for k, a in arrays.items()})  # type: ignore[arg-type]
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{self.folder}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert not answer, answer.replace("\\n", "\n")
        return dict(np.load(self.folder / "found.npz"))

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def kernel_file(backend: str, name: str) -> str:
    """The text of a file of `kernels/`."""
    folder = {"torch": torch_kernels, "flax": flax_kernels}[backend].__path__[0]
    return (Path(folder) / f"{name}.py").read_text("utf-8")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("triton"))
    yield worker
    worker.close()
