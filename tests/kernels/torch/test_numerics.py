"""Dtypes of the single-precision islands, and the inverse of softplus."""

import pytest
import torch
from kernels.numerics import fp32, inv_softplus


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.int64, torch.float32),
        (torch.float64, torch.float64),
        (torch.complex64, torch.complex64),
        (torch.complex128, torch.complex128),
    ],
)
def test_fp32_is_at_least_single_precision(given: torch.dtype, expected: torch.dtype) -> None:
    assert fp32(torch.ones(2, dtype=given)).dtype is expected


def test_inv_softplus_is_the_inverse_over_the_whole_range() -> None:
    y = torch.logspace(-30, 3, 67)
    back = torch.nn.functional.softplus(inv_softplus(y).double())
    torch.testing.assert_close(back, y.double(), rtol=1e-5, atol=0)
