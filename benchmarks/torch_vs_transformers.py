"""Emitted PyTorch models against transformers with equal weights: a train step, a prompt, and tokens one by one.

Single precision. `python -m benchmarks.torch_vs_transformers`, from the root of the repository. `mambapy` is Mamba
with the scan of the package of that name on their side, where it is installed; `mamba` with their loop over tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from benchmarks.measure import Comparison, clock, compare, limit, machine, model_options, options, show

if TYPE_CHECKING:
    from tests.oracles.family import Family

AIMS = {"recurrentgemma": {"train": 3.0}, "mambapy": {"train": 6.0}, "llama": {"train": 1.1}}
DECODE_AIM = {"token": 3.0}
LONGER = (1, 1024)  # sequences, tokens: where the aims for a train step hold
NAMES = ("recurrentgemma", "mamba", "mambapy", "mamba2", "llama", "mistral", "pythia")
SAME = 1e-3
LOOP_TOKENS = 256
"""Mamba's loop over tokens in transformers trains on no more here, and once: for every token its backward pass fills
arrays of the whole sequence, so that its time grows with the square of the length."""


def main(arguments: Sequence[str] | None = None) -> None:
    """One table for each model and shape."""
    parser = options(__doc__, repeats=5)
    model_options(parser, NAMES)
    parser.add_argument("--new", type=int, default=32, help="tokens decoded one by one; the prompt is the rest")
    args = parser.parse_args(arguments)
    limit(args.threads)
    import torch

    torch.set_num_threads(args.threads)
    print(machine(args.threads, "torch", "transformers"))
    print(f"width {args.width}, {args.depth} layers, {args.vocab} tokens in the vocabulary; fp32; least, median")
    for name, family in _families(args):
        _compare(name, family, args)


def _families(args: argparse.Namespace) -> Iterator[tuple[str, Family]]:
    from benchmarks.subjects import Size, family, with_mambapy

    size = Size(args.width, args.depth, args.vocab)
    for name in args.models:
        if name != "mambapy":
            yield name, family(name, size)
        elif find_spec("mambapy"):
            yield name, with_mambapy(family("mamba", size))
        else:
            print("\nmambapy is not installed: the comparison of Mamba with its scan is left out")


def _compare(name: str, family: Family, args: argparse.Namespace) -> None:
    from benchmarks import subjects

    timer = clock(args.threads)
    theirs = subjects.theirs(family)
    ours = family.ours(theirs)
    for batch, time in args.shapes:
        inputs = subjects.tokens(batch, time, args.vocab)
        apart = subjects.difference(ours, theirs, inputs)
        if apart > SAME:
            raise SystemExit(f"{name}: the logits differ by {apart:.1g}: these are not the same models")
        found: dict[str, Comparison] = {}
        loop = name == "mamba"
        if not loop or time <= LOOP_TOKENS:
            found |= compare(
                subjects.training(ours, ours, inputs, timer),
                subjects.training(theirs, lambda x: theirs(x, use_cache=False).logits, inputs, timer),
                repeats=1 if loop else args.repeats,
                warm=not loop,
            )
        found |= compare(
            subjects.our_decoding(ours, inputs, args.new, timer),
            subjects.their_decoding(theirs, inputs, args.new, timer),
            args.repeats,
        )
        title = f"{name}, {batch} x {time} tokens (logits differ by {apart:.0e})"
        aims = AIMS.get(name, {}) if (batch, time) == LONGER else {}
        show(title, ("archc", "transformers"), found, aims | DECODE_AIM)


if __name__ == "__main__":
    main()
