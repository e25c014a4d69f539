"""One package per backend: a rendering rule per op, and kernels that are copied into the output."""
