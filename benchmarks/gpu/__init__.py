"""What a GPU makes of the generated kernels and models: correctness first, then its own ceilings, then times."""
