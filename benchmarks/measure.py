"""Times two sides that do the same work in turn, and says on which machine."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

Clock = Callable[[], float]
Run = Callable[[], Mapping[str, float]]
"""Does the work of one side once; the seconds of each part by name."""


@dataclass(frozen=True)
class Comparison:
    """Seconds of both sides, pair by pair as they ran."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """How many times as fast as theirs ours is, from the least time of each."""
        return min(self.theirs) / min(self.ours)

    @property
    def paired(self) -> float:
        """The median of that ratio pair by pair: the speed of a machine that drifts cancels."""
        return median(b / a for a, b in zip(self.ours, self.theirs, strict=True))


def compare(ours: Run, theirs: Run, repeats: int, warm: bool = True) -> dict[str, Comparison]:
    """Both sides in turn, each first every other time; if `warm`, after one run of each that does not count."""
    if warm:
        ours(), theirs()
    pairs: list[tuple[Mapping[str, float], Mapping[str, float]]] = []
    for i in range(repeats):
        if i % 2:
            late = theirs()
            pairs.append((ours(), late))
        else:
            pairs.append((ours(), theirs()))
    parts = pairs[0][0]
    return {part: Comparison(tuple(a[part] for a, _ in pairs), tuple(b[part] for _, b in pairs)) for part in parts}


def clock(threads: int) -> Clock:
    """For one thread the processor time of this process, so that others' load does not count; else the wall's."""
    return process_time if threads == 1 else perf_counter


def seconds(work: Callable[[], object], clock: Clock = perf_counter) -> float:
    """How long a call takes."""
    start = clock()
    work()
    return clock() - start


def show(title: str, names: tuple[str, str], found: Mapping[str, Comparison], aims: Mapping[str, float]) -> None:
    """A line for each part: least and median milliseconds of both sides, and their ratios."""
    print(f"\n{title}")
    for part, times in found.items():
        a, b = (f"{1e3 * min(t):9.2f} {1e3 * median(t):9.2f}" for t in (times.ours, times.theirs))
        aim = f"   aim {aims[part]:g}x" if part in aims else ""
        print(
            f"  {part:<10} {names[0]} {a} ms   {names[1]} {b} ms   ratio {times.ratio:5.2f}x, in pairs "
            f"{times.paired:5.2f}x{aim}"
        )


def options(about: str | None, repeats: int) -> argparse.ArgumentParser:
    """The options that every script has."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, help="counted runs of each side")
    threads = "processors that may be used; of one, processor time is told, of several, wall time"
    parser.add_argument("--threads", type=int, default=1, help=threads)
    return parser


def model_options(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """The options of scripts that run models: which, how large, on how many tokens."""
    parser.add_argument("--models", nargs="+", choices=names, default=list(names))
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument(
        "--shapes", nargs="+", type=shape, default=[(2, 256), (1, 1024)], help="sequences x tokens, as 2x256"
    )


def shape(text: str) -> tuple[int, int]:
    """`2x256` as (2, 256)."""
    batch, _, time = text.partition("x")
    return int(batch), int(time)


def limit(threads: int) -> None:
    """Leaves this process so many processors. To be called before a framework is imported: they count at the start."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def machine(threads: int, *packages: str) -> str:
    """The processor, the load (averages over 1, 5 and 15 minutes), and versions."""
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    versions = ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)])
    return f"{_processor()}, {os.cpu_count()} processors, {threads} used; load {load}; {versions}"


def _processor() -> str:
    """What the kernel calls it; model numbers too, since virtual machines often give no more than a family."""
    listing = Path("/proc/cpuinfo")
    if not listing.exists():
        return platform.processor() or platform.machine()
    lines = (line.partition(":") for line in listing.read_text("utf-8").splitlines())
    facts = {key.strip(): value.strip() for key, _, value in lines}
    return (
        f"{facts.get('model name', platform.machine())} (family {facts.get('cpu family')}, model {facts.get('model')})"
    )
