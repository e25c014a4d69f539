"""Only where Triton interprets; every array that a kernel has to fill is full of NaN before."""

import os
from collections.abc import Iterator

import pytest
import torch

from tests.kernels.triton.quick import quick  # noqa: F401 (a fixture)

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import kernels.operators

    monkeypatch.setattr(kernels.operators, "INTERPRETED", True)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
