"""Writes down what the shipped kernels ask of chips: `python -m tests.kernels.triton.update`, some minutes."""

from tests.kernels.triton.shipped import main

if __name__ == "__main__":
    main()
