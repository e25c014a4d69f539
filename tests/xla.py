"""How XLA compiles in the tests: nearly all is compiled anew and runs once, so that little of it is worth optimising.

Without the emitters of fusions, which pass each through dialects of MLIR, it takes three fifths of the time.
"""

QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
"""Options of a compilation."""

FLAGS = " ".join(f"--{name}={value}".lower() for name, value in QUICK.items())
"""The same as what `XLA_FLAGS` says to a process."""
