"""Every kernel class against the ceilings of the device, the unfused form, torch.compile of it, and other packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.cases import CASES, Case, Inputs, Sizes
from benchmarks.gpu.peers import Contender, contenders
from benchmarks.gpu.place import Place
from benchmarks.gpu.records import Log
from benchmarks.gpu.timing import Times, times
from benchmarks.gpu.work import Work


def race(place: Place, log: Log, ceilings: Mapping[str, float], late: Callable[[], bool]) -> None:
    """A row for each class, shape, pass and contender; ends early when it is late."""
    for number in range(max(len(case.shapes) for case in CASES)):  # the first shape of every class comes first
        for case in CASES:
            shapes = (case.tiny,) if place.dry else case.shapes[:1] if place.quick else case.shapes
            if number < len(shapes):
                _race(case, shapes[number], place, log, ceilings, late)


def _race(
    case: Case, sizes: Sizes, place: Place, log: Log, ceilings: Mapping[str, float], late: Callable[[], bool]
) -> None:
    inputs = case.inputs(sizes, place.device)
    wanted: Tensor | None = None
    work = case.work(sizes)
    for name, run in contenders(case, place).items():
        if late():
            return
        about = {"case": case.name, **sizes, "contender": name}
        try:
            found = run(inputs).detach()
            wanted = found if wanted is None else wanted
            error = float((found.float() - wanted.float()).norm() / wanted.float().norm())
            for what, do, least in (
                ("forward", _forward(run, inputs), work.forward),
                ("both", _both(run, inputs), work.together),
            ):
                with place.peak() as peak:
                    do()
                spent = times(do, place)
                log.add(**about, **{"pass": what}, error=error, peak_bytes=peak[0], **shares(spent, least, ceilings))
        except Exception as failure:  # of another package, or of memory: what it says is the finding
            if name == "archc":
                raise
            log.add(**about, failed=f"{type(failure).__name__}: {str(failure)[:200]}")
            if not place.dry:
                torch.cuda.empty_cache()


def shares(spent: Times, least: Work, ceilings: Mapping[str, float]) -> dict[str, Any]:
    """Times, useful bytes a second, and the largest floor with its share of the time."""
    floors = least.floors(ceilings)
    row: dict[str, Any] = {**spent.row(), "gb_s": least.moved / spent.best / 1e3}
    if floors:
        limit = max(floors, key=lambda name: floors[name])
        row |= {"floor": limit, "floor_us": floors[limit], "share_of_floor": floors[limit] / spent.best}
        if "copy" in floors:
            row["share_of_copy"] = floors["copy"] / spent.best
    return row


def _forward(run: Contender, inputs: Inputs) -> Callable[[], object]:
    plain = tuple(x.detach() for x in inputs)

    def do() -> object:
        with torch.no_grad():
            return run(plain)

    return do


def _both(run: Contender, inputs: Inputs) -> Callable[[], object]:
    y = run(inputs)
    dy = torch.randn_like(y)
    return lambda: torch.autograd.grad(run(inputs), inputs, dy)
