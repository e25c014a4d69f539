"""Weights and configs in and out: what other libraries call our models, their sizes and their tensors.

Nothing here knows a family: how one is written elsewhere is data beside its spec (`specs/*.hf.toml`).
"""
