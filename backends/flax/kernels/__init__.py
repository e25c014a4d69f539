"""Kernels in JAX, copied verbatim into the output; they import one another as `kernels.x`."""
