"""What this device reaches by itself: copies, matrix products, exponentials. All later figures are shares of these."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton

from benchmarks.gpu.language import exponentials
from benchmarks.gpu.place import Place
from benchmarks.gpu.records import Log
from benchmarks.gpu.timing import times

COPIED = 1 << 29  # elements in half precision
SIDE = 8192  # of the matrices
CHAIN, TILE, PROGRAMS = 256, 1024, 1 << 14  # exponentials of an element, elements of a program, programs


def ceilings(place: Place, log: Log) -> dict[str, float]:
    """A second's bytes (read and written), operations of a bf16 product, and exponentials."""
    found = {"copy": _copy(place), "product": _product(place), "exponential": _exponentials(place)}
    for name, speed in found.items():
        log.add(what=name, a_second=speed)
    return found


def _copy(place: Place) -> float:
    source = torch.randn(64 if place.dry else COPIED, device=place.device).bfloat16()
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds(lambda: target.copy_(source), place)


def _product(place: Place) -> float:
    side = 16 if place.dry else SIDE
    x, y = (torch.randn(side, side, device=place.device).bfloat16() for _ in range(2))
    z = torch.empty_like(x)
    return 2 * side**3 / _seconds(lambda: torch.mm(x, y, out=z), place)


def _exponentials(place: Place) -> float:
    chain, programs = (2, 1) if place.dry else (CHAIN, PROGRAMS)
    x = torch.rand(programs * TILE, device=place.device)
    grid = (triton.cdiv(len(x), TILE),)
    return len(x) * chain / _seconds(lambda: exponentials[grid](x, TIMES=chain, SIZE=TILE), place)


def _seconds(run: Callable[[], object], place: Place) -> float:
    return times(run, place).median / 1e6
