"""The Pallas kernels that a project starts, found by tracing its model: each lowers for the machine it is for."""

import jax
import pytest

from archc.diagnostics import ArchError
from archc.offline import kernels
from archc.reports.compiled import OfPallas, table

SPECS = {
    "griffin:tiny": {"causal_conv", "causal_conv_gradient", "gated_scan", "gated_scan_gradient"},
    "mamba1_in_llama:tiny": {"causal_conv", "causal_conv_gradient", "selective_scan", "selective_scan_gradient"},
    "retnet:tiny": {"chunked_scan", "chunked_scan_gradient"},
}


@pytest.fixture(autouse=True)
def _single_precision():
    with jax.enable_x64(False):
        yield


@pytest.mark.parametrize("spec", SPECS)
def test_every_kernel_of_a_model_lowers_for_a_tpu(spec: str) -> None:
    """And is taken by its compiler, where that is installed."""
    found = kernels(spec, "tpu", {}, batch=1, seq=32, dtype="bf16")
    rows = [row for row in found.kernels if isinstance(row, OfPallas)]
    assert SPECS[spec] <= {row.kernel for row in rows}
    assert all(row.lowers and row.compiles is not False for row in rows), table(found)
    assert all(row.bundles is None or row.compiles for row in rows)


def test_every_kernel_of_a_model_lowers_for_a_gpu() -> None:
    found = kernels("griffin:tiny", "cuda", {}, batch=1, seq=32, dtype="bf16")
    assert all(isinstance(row, OfPallas) and row.lowers for row in found.kernels)
    assert {row.use for row in found.kernels} >= {"training"}
    assert "lowers" in table(found)


def test_a_model_without_kernels_is_told_so() -> None:
    with pytest.raises(ArchError, match="'llama:tiny' starts no kernel on tpu"):
        kernels("llama:tiny", "tpu", {}, batch=1, seq=32, dtype="bf16")
