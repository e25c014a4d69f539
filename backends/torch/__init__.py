"""PyTorch: rendering rules and kernels."""
