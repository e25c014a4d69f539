"""The compiler itself: a cold report, and the time to compile as models grow deeper.

`python -m benchmarks.compiler`, from the root of the repository. Reports run in fresh processes, with Python's own
compiled files in place, as after an installation. XLA compiles the gradient of the emitted Flax model at two depths.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, get_args

from benchmarks.measure import Clock, clock, compare, limit, machine, options, seconds, show

REPORT = "recurrentgemma:9b"
AIM = 0.3
COMMAND = "import sys; from archc.cli import main; sys.exit(main())"
SPECS = ("recurrentgemma", "mamba", "llama")


def main(arguments: Sequence[str] | None = None) -> None:
    """Three tables."""
    parser = options(__doc__, repeats=7)
    parser.add_argument("--models", nargs="+", default=list(SPECS), help="specs that are compiled")
    parser.add_argument("--depth", type=int, default=6, help="the smaller depth, a multiple of the pattern")
    parser.add_argument("--growth", type=int, default=10, help="how many times as deep the larger model is")
    args = parser.parse_args(arguments)
    limit(args.threads)
    print(machine(args.threads, "jax", "flax"))
    cold_report(args.repeats)
    for name in args.models:
        compile_deeper(name, args)
    for name in args.models:
        trace_deeper(name, args)


def cold_report(repeats: int) -> None:
    """Wall and processor seconds of a fresh process, and the same of an interpreter that does nothing."""
    print(f"\ncold archc report {REPORT}, beside a Python that does nothing: least, median")
    with TemporaryDirectory() as compiled:
        for label, words in (("report", [COMMAND, "report", REPORT]), ("nothing", ["pass"])):
            times = [_fresh(words, compiled) for _ in range(repeats + 1)][1:]
            wall, work = zip(*times, strict=True)
            aim = f"   aim {AIM} s: {min(wall) / AIM:.2f} of it" if label == "report" else ""
            print(
                f"  {label:<10} wall {min(wall):.3f} {median(wall):.3f} s   "
                f"processor {min(work):.3f} {median(work):.3f} s{aim}"
            )


def _fresh(words: Sequence[str], compiled: str) -> tuple[float, float]:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    before = getrusage(RUSAGE_CHILDREN)
    wall = seconds(
        lambda: subprocess.run(
            [sys.executable, "-c", *words],
            env=env | {"PYTHONPYCACHEPREFIX": compiled},
            stdout=subprocess.DEVNULL,
            check=True,
        )
    )
    after = getrusage(RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def compile_deeper(name: str, args: argparse.Namespace) -> None:
    """`archc.compile`, all files of a project, at both depths in turn."""
    import archc
    from archc.api import Backend

    def side(depth: int, backend: Backend) -> dict[str, float]:
        work = partial(archc.compile, f"{name}:tiny", backend=backend, settings={"depth": depth})
        return {"compile": seconds(work, clock(args.threads))}

    deep = args.depth * args.growth
    for backend in get_args(Backend):
        found = compare(partial(side, args.depth, backend), partial(side, deep, backend), args.repeats)
        show(f"archc compile {name}, {backend}: ratio 1 is flat", _depths(args), found, {})


def trace_deeper(name: str, args: argparse.Namespace) -> None:
    """Tracing and XLA's compiling of loss and gradient, at both depths in turn; nothing is taken from a cache."""
    import archc

    shallow, deep = (
        archc.load(f"{name}:tiny", "flax", depth=depth) for depth in (args.depth, args.depth * args.growth)
    )
    timer = clock(args.threads)
    found = compare(lambda: {"jit": _jit(shallow, timer)}, lambda: {"jit": _jit(deep, timer)}, args.repeats, warm=False)
    show(f"jax.jit of {name}'s loss and gradient: ratio 1 is flat", _depths(args), found, {})


def _depths(args: argparse.Namespace) -> tuple[str, str]:
    return f"{args.depth} layers", f"{args.depth * args.growth} layers"


def _jit(model: Any, clock: Clock) -> float:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    graph, weights = nnx.split(model)
    jax.clear_caches()  # type: ignore[no-untyped-call]

    def loss(weights: Any, tokens: Any) -> Any:
        return nnx.merge(graph, weights)(tokens).var()

    tokens = jnp.zeros((2, 64), jnp.int32)
    return seconds(lambda: jax.jit(jax.value_and_grad(loss)).lower(weights, tokens).compile(), clock)


if __name__ == "__main__":
    main()
