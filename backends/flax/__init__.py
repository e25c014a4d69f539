"""Flax NNX: rendering rules and kernels."""
