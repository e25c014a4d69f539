"""Peak memory of one training step of emitted PyTorch models against transformers, each in a process of its own.

`python -m benchmarks.memory`, from the root of the repository; on Linux. What is counted is the largest resident
size during forward and backward, less the resident size after the model was built and took a step of a few tokens
whose gradients were dropped: gradients and activations, no weights and no libraries.
"""
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import argparse
import gc
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import process_time

from benchmarks.measure import limit, machine, model_options, options

NAMES = ("recurrentgemma", "mamba", "llama")
FEW = 8
LOOP_TOKENS = 256  # Mamba's loop over tokens in transformers: its time grows with the square of the length


def main(arguments: Sequence[str] | None = None) -> None:
    """One line for each model and shape."""
    parser = options(__doc__, repeats=3)
    model_options(parser, NAMES)
    parser.add_argument("--side", choices=("archc", "transformers", "mambapy"), help="measure this alone: one number")
    args = parser.parse_args(arguments)
    limit(args.threads)
    if args.side:
        print(measure(args.models[0], args.side, args))
        return
    print(machine(args.threads, "torch", "transformers"))
    print(f"width {args.width}, {args.depth} layers, {args.vocab} tokens in the vocabulary; fp32; least, median")
    for name in args.models:
        for tokens in args.shapes:
            _compare(name, tokens, args)


def _compare(name: str, tokens: tuple[int, int], args: argparse.Namespace) -> None:
    sides = ["archc"]
    if name != "mamba" or tokens[1] <= LOOP_TOKENS:
        sides.append("transformers")
    if name == "mamba" and find_spec("mambapy"):
        sides.append("mambapy")
    found: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(args.repeats):
        for side, peaks in found.items():
            peaks.append(_alone(name, side, tokens, args))
    ours, *others = found.items()
    for side, peaks in others:
        both = (f"{label} {min(p):7.1f} {median(p):7.1f} MB" for label, p in (ours, (side, peaks)))
        share = median(ours[1]) / median(peaks)
        print(f"  {name}, {tokens[0]} x {tokens[1]}: {'   '.join(both)}   ratio {share:.2f}   aim at most 1")


def _alone(name: str, side: str, tokens: tuple[int, int], args: argparse.Namespace) -> float:
    """The megabytes of one side in a fresh process."""
    sizes = [f"--{key}={getattr(args, key)}" for key in ("width", "depth", "vocab", "threads")]
    words = ["--models", name, "--side", side, "--shapes", f"{tokens[0]}x{tokens[1]}", *sizes]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name} of {side} failed:\n{done.stderr}")
    return float(done.stdout)


def measure(name: str, side: str, args: argparse.Namespace) -> float:
    """The megabytes (10^6 bytes) of one training step in this process."""
    import torch

    import archc
    from benchmarks import subjects

    torch.set_num_threads(args.threads)
    found = subjects.family(name, subjects.Size(args.width, args.depth, args.vocab))
    if side == "archc":
        model = archc.load(found.spec, backend="torch")
        logits: Callable[[torch.Tensor], torch.Tensor] = model
    else:
        if side == "mambapy":
            found = subjects.with_mambapy(found)
        model = subjects.theirs(found)

        def logits(tokens: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = model(tokens, use_cache=False).logits
            return found

    batch, time = args.shapes[0]
    subjects.training(model, logits, subjects.tokens(batch, FEW, args.vocab), process_time)()
    model.zero_grad(set_to_none=True)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # the peak starts again from here
    before = _resident("VmRSS")
    subjects.training(model, logits, subjects.tokens(batch, time, args.vocab), process_time)()
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    """Megabytes: now (VmRSS), or the most so far (VmHWM); getrusage would count the process before it too."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    assert found
    return int(found[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
