"""`python -m benchmarks.gpu`, from the root of the repository, on a machine with a GPU; `--dry-run` on any.

Correctness first, then what the device reaches by itself, then kernels, whole training steps, decoding, and tiles.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
STAGES = ("smoke", "ceilings", "race", "steps", "decoding", "sweep")
USUAL = STAGES[:-1]
NO_GPU = "error: there is no GPU that torch can use here; --dry-run shows on a CPU that everything runs"


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 without a GPU, or where a kernel is wrong on the one there is."""
    args = _options().parse_args(arguments)
    if args.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
    import torch

    if not args.dry_run and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 1
    return _run(args)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = f"which of {', '.join(STAGES)}; usually all but the last, which tries other tiles"
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=USUAL, metavar="STAGE", help=usual)
    parser.add_argument("--minutes", type=float, default=15, help="after so many no new timing begins [15]")
    parser.add_argument("--quick", action="store_true", help="one shape of each class, the smaller models, two lengths")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU, kernels interpreted")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help=f"where files go [{RESULTS}]")
    return parser


def _run(args: argparse.Namespace) -> int:
    from benchmarks.gpu.ceilings import ceilings
    from benchmarks.gpu.place import Place
    from benchmarks.gpu.race import race
    from benchmarks.gpu.records import Log, file_name
    from benchmarks.gpu.smoke import smoke
    from benchmarks.gpu.steps import decoding, steps
    from benchmarks.gpu.sweep import sweep
    from benchmarks.gpu.tables import markdown

    place = Place(args.dry_run, args.quick)
    path = args.out / file_name(place.name)
    log, end = Log(path.with_suffix(".jsonl")), time.monotonic() + 60 * args.minutes
    right, speeds = True, dict[str, float]()

    def late() -> bool:
        return time.monotonic() > end

    for log.stage in [stage for stage in STAGES if stage in args.stages]:
        match log.stage:
            case "smoke":
                right = smoke(place, log)
            case "ceilings":
                speeds = ceilings(place, log)
            case "race":
                race(place, log, speeds, late)
            case "steps":
                steps(place, log, speeds, late)
            case "decoding":
                decoding(place, log, late)
            case "sweep":
                sweep(place, log, late)
        path.with_suffix(".json").write_text(json.dumps(log.rows, indent=1) + "\n", "utf-8")
        path.with_suffix(".md").write_text(markdown(place.name, log.rows), "utf-8")
        if not right:
            print("error: a kernel is wrong here, so that nothing was timed", file=sys.stderr)
            return 1
    if late():
        print(f"{args.minutes:g} minutes were not enough for everything")
    print(f"{path}.md, .json, .jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main())
