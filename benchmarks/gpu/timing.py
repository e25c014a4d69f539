"""How long a call takes on the device: quantiles of single calls, each with an L2 cache that holds nothing of it."""
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

from benchmarks.gpu.place import Place

FLUSH = 256 << 20  # bytes that are written before every call: more than the L2 cache of any GPU
SHORT = 200.0  # microseconds below which the processor's launches show, so that a CUDA graph is timed as well
CALLS = 5, 200  # at least and at most, apart from the first ones


@dataclass(frozen=True)
class Times:
    """Microseconds: the median, the 20th and 80th percentile, and the median of a CUDA graph where that was made."""

    median: float
    low: float
    high: float
    graph: float | None = None

    @property
    def best(self) -> float:
        """Without launches, where they show."""
        return self.median if self.graph is None else min(self.median, self.graph)

    def row(self) -> dict[str, float | None]:
        """For a record."""
        return {"us": self.median, "us_20": self.low, "us_80": self.high, "us_graph": self.graph}


def times(run: Callable[[], object], place: Place, milliseconds: float = 200.0) -> Times:
    """Times of `run`, which is called for about so long."""
    if place.dry:
        start = perf_counter()
        run()
        spent = 1e6 * (perf_counter() - start)
        return Times(spent, spent, spent)
    found = quantiles(run, milliseconds / 2 if place.quick else milliseconds)
    if found[1] >= SHORT:
        return Times(found[1], found[0], found[2])
    graph = captured(run)
    return Times(found[1], found[0], found[2], graph and quantiles(graph, milliseconds / 2)[1])


def quantiles(run: Callable[[], object], milliseconds: float) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentile in microseconds."""
    flush = torch.empty(FLUSH, dtype=torch.int8, device="cuda")
    for _ in range(3):  # compiles, and fills the allocator
        run()
    each = sorted(_timed(run, flush, 3))[1]
    found = sorted(_timed(run, flush, max(CALLS[0], min(CALLS[1], int(1e3 * milliseconds / each)))))
    return _at(found, 0.2), _at(found, 0.5), _at(found, 0.8)


def captured(run: Callable[[], object]) -> Callable[[], object] | None:
    """The same work as one CUDA graph; None where it can't be captured, as when it waits for the device."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph.replay


def _timed(run: Callable[[], object], flush: torch.Tensor, calls: int) -> list[float]:
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(calls)]
    for begin, end in marks:
        flush.zero_()
        begin.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [1e3 * begin.elapsed_time(end) for begin, end in marks]


def _at(found: Sequence[float], share: float) -> float:
    return found[round(share * (len(found) - 1))]
