"""Generated projects in this process, and which of their two paths runs: their kernels, or whole tensors."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from archc import api
from archc.loading import import_project


@dataclass(frozen=True)
class Project:
    """The `model.py` of a project, under the private name that `archc.loading` has given it."""

    model: ModuleType

    def module(self, name: str) -> Any:
        """Another module of the project, as `kernels.scan`."""
        return sys.modules[f"{self.model.__name__.removesuffix('model')}{name}"]

    @contextmanager
    def path(self, kernels: bool) -> Iterator[None]:
        """Inside, tensors go to the Triton kernels, interpreted on a CPU; or never."""
        operators = self.module("kernels.operators")
        before = operators.TRITON, operators.INTERPRETED
        operators.TRITON, operators.INTERPRETED = kernels, kernels
        try:
            yield
        finally:
            operators.TRITON, operators.INTERPRETED = before


@cache
def _emitted(spec: str, settings: tuple[tuple[str, int], ...], backend: api.Backend) -> Project:
    artifacts = api.compile(spec, backend=backend, settings=dict(settings))
    return Project(import_project(artifacts, "model")["model"])


def project(spec: str, settings: Mapping[str, int], backend: api.Backend = "torch") -> Project:
    """The project of a spec, made once."""
    return _emitted(spec, tuple(settings.items()), backend)
