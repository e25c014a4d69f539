"""Whether this device computes what it should: every kernel class against double precision on the CPU, and itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.gpu.cases import CASES, Case, Inputs, positions
from benchmarks.gpu.language import language
from benchmarks.gpu.place import Place
from benchmarks.gpu.records import Log

REPEATS = 20
SINGLE, HALF = 2e-4, 2e-2  # relative errors, in the norm, that single and half precision explain
PRECISIONS = {torch.float32: SINGLE, torch.bfloat16: HALF}


def smoke(place: Place, log: Log) -> bool:
    """Whether everything was right and the same in every repetition; each finding is a row of the log."""
    log.add(what="versions", right=True, **place.facts())
    for what, error in language(place):
        log.add(what=what, error=error, right=error < (HALF if "bfloat16" in what else 1e-5))
    for case in CASES:
        for packed in (False, True):
            _values(case, packed, place, log)
        _repetitions(case, place, log)
    return all(row["right"] for row in log.of(log.stage))


def _values(case: Case, packed: bool, place: Place, log: Log) -> None:
    """The value and every gradient of the kernels, from the same numbers, against whole tensors in double precision."""
    sizes = case.tiny if place.dry else case.small
    exact = case.inputs(sizes, torch.device("cpu"), torch.float64)
    wanted = both(case, exact, positions(sizes, torch.device("cpu"), packed), kernels=False)
    for dtype, limit in PRECISIONS.items():
        if place.dry and (dtype is torch.bfloat16 or packed):
            continue  # the interpreter is slow
        given = case.inputs(sizes, place.device, None if dtype is torch.bfloat16 else dtype)
        found = both(case, given, positions(sizes, place.device, packed), kernels=True)
        error = max(map(_distance, found, wanted))
        kind = f"{'packed' if packed else 'whole'}, {str(dtype).removeprefix('torch.')}"
        log.add(what=f"{case.name}, {kind}", **sizes, error=error, right=error < limit)


def _repetitions(case: Case, place: Place, log: Log) -> None:
    """Races between threads show as results that differ."""
    sizes = case.tiny if place.dry else case.small
    given, pos = case.inputs(sizes, place.device), positions(sizes, place.device)
    first = both(case, given, pos, kernels=True)
    count = 1 if place.dry else REPEATS
    same = all(all(map(torch.equal, first, both(case, given, pos, kernels=True))) for _ in range(count))
    log.add(what=f"{case.name}, {count} repetitions to the last bit", right=same)


def both(case: Case, inputs: Inputs, pos: Tensor, kernels: bool) -> Sequence[Tensor]:
    """The value and the gradient of every input, for a gradient of the value that is always the same."""
    with case.project().path(kernels):
        y = case.run(case.project(), inputs, pos)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(y.device, y.dtype)
        return [y.detach(), *torch.autograd.grad(y, inputs, dy)]


def _distance(found: Tensor, wanted: Tensor) -> float:
    """In relation to the norm of what is wanted."""
    return float((found.cpu().double() - wanted).norm() / wanted.norm().clamp(min=1e-12))
