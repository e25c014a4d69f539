"""Writes down what the shipped kernels ask of chips: `python -m tests.kernels.triton.update`."""

from importlib import import_module

if __name__ == "__main__":
    import_module("tests.kernels.triton.conftest")  # finds the kernels
    import_module("tests.kernels.triton.shipped").main()
