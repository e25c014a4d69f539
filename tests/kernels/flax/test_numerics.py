"""Single precision islands and the inverse of softplus."""

import jax.numpy as jnp
import numpy as np
import pytest

PROMOTED = {"bfloat16": "float32", "float16": "float32", "float64": "float64", "complex64": "complex64"}


@pytest.mark.parametrize(("given", "want"), PROMOTED.items())
def test_fp32_is_at_least_single_precision(kernels, given, want):
    assert kernels.numerics.fp32(jnp.ones(2, given)).dtype == want


def test_inv_softplus_is_exact_for_small_and_large_values(kernels):
    x = jnp.asarray([-700.0, -30.0, -1.0, 0.0, 1.0, 30.0, 700.0])
    found = kernels.numerics.inv_softplus(jnp.logaddexp(x, 0.0))
    np.testing.assert_allclose(found, x, rtol=1e-12, atol=1e-12)
