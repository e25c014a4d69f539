"""Ways to run a recurrence over time: is the one that the compiler's kernels choose the fastest, or within a tenth?

`python -m benchmarks.scans`, from the root of the repository. A line for each length: milliseconds of every way, least
of several rounds in which all take turns, forward and backward together; the ratio of the fastest to archc's, and the
median of that ratio round by round; "ok" where one of the two is above 0.9.
diagonal: decays of every token. constant: decays that are the same for all tokens. read: such ones, complex, 16 states
a channel, read out at each token. selective: 16 states a channel, read out at each token. chunked: a decay per
head, 2 heads of 64 keys and 64 values; keys: a decay per key of the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.measure import Clock, clock, limit, machine, options, seconds

KINDS = ("diagonal", "constant", "read", "selective", "chunked", "keys")
LENGTHS = (512, 2048, 8192, 65_536)
ENOUGH = 0.9
SAME = 1e-3  # of the largest value


def main(arguments: Sequence[str] | None = None) -> None:
    """A table for each backend and class."""
    parser = options(__doc__, repeats=5)
    parser.add_argument("--backends", nargs="+", choices=("torch", "jax"), default=["torch", "jax"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument(
        "--channels", type=int, default=256, help="of one sequence; a quarter of it with 16 states each"
    )
    parser.add_argument("--forward", action="store_true", help="without the backward pass")
    args = parser.parse_args(arguments)
    limit(args.threads)
    for backend in args.backends:
        if backend == "torch":
            _torch(args)
        else:
            _jax(args)


def _torch(args: argparse.Namespace) -> None:
    import torch

    from benchmarks import strategies_torch as strategies

    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"\nPyTorch on {device.type}; {machine(args.threads, 'torch')}")

    def waits(run: Callable[[], object]) -> Callable[[], object]:
        """The device's work is done when the call returns."""

        def run_and_wait() -> object:
            found = run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            return found

        return run_and_wait

    make = strategies.forward if args.forward else strategies.training
    timer = clock(args.threads) if device.type == "cpu" else perf_counter
    for kind in args.kinds:
        _table(
            kind,
            strategies.WAYS[kind],
            args,
            timer,
            lambda way, x: waits(make(way, x)),
            _drawn(strategies, kind, args, device),
        )


def _jax(args: argparse.Namespace) -> None:
    import jax

    from benchmarks import strategies_jax as strategies

    backend = jax.default_backend()
    print(f"\nJAX on {backend}; {machine(args.threads, 'jax')}")
    make = strategies.forward if args.forward else strategies.training
    timer = clock(args.threads) if backend == "cpu" else perf_counter
    for kind in args.kinds:
        _table(kind, strategies.WAYS[kind], args, timer, make, _drawn(strategies, kind, args))


def _drawn(strategies: Any, kind: str, args: argparse.Namespace, *device: Any) -> Callable[[int], Any]:
    channels = args.channels // 4 if kind in ("read", "selective") else args.channels
    return lambda time: strategies.draw(kind, time, channels, *device)


def _table(
    kind: str,
    ways: Sequence[Any],
    args: argparse.Namespace,
    timer: Clock,
    make: Callable[[Any, Any], Callable[[], object]],
    draw: Callable[[int], Any],
) -> None:
    names = [way.name for way in ways]
    print(f"\n{kind}, milliseconds {'forward' if args.forward else 'forward and backward'}")
    print(f"{'tokens':>8} " + " ".join(f"{name:>15}" for name in names) + "   ratio   in rounds")
    for time in args.lengths:
        inputs = draw(time)
        runs = {way.name: make(way, inputs) for way in ways if time <= way.longest}
        found = _rounds(runs, args.repeats, timer)
        least = {name: min(times) for name, times in found.items()}
        cells = " ".join(f"{1e3 * least[name]:15.2f}" if name in found else f"{'-':>15}" for name in names)
        fastest = min(least, key=lambda name: least[name])
        ratio = least[fastest] / least["archc"]
        steady = median(x / y for x, y in zip(found[fastest], found["archc"], strict=True))
        verdict = "ok" if max(ratio, steady) > ENOUGH else f"slower than {fastest}"
        print(f"{time:8} {cells}   {ratio:5.2f}   {steady:9.2f} {verdict}", flush=True)


def _rounds(runs: Mapping[str, Callable[[], object]], repeats: int, timer: Clock) -> dict[str, list[float]]:
    """Seconds of each in every round, after one call that does not count but is compared.

    All take turns, so that a machine that drifts does so for all, in the other direction every other round. A call
    that does not count comes before the one that does: what follows a way that takes much memory pays for it again.
    """
    values = {name: _arrays(run()) for name, run in runs.items()}
    for name, found in values.items():
        if not all(
            np.allclose(x, y, rtol=SAME, atol=SAME * abs(y).max()) for x, y in zip(found, values["archc"], strict=True)
        ):
            raise SystemExit(f"{name} computes something else")
    del values
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            runs[name]()
            times[name].append(seconds(runs[name], timer))
    return times


def _arrays(found: Any) -> list[Any]:
    """One array or several."""
    return [
        np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)
        for x in (found if isinstance(found, tuple) else (found,))
    ]


if __name__ == "__main__":
    main()
